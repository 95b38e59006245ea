"""What other runtimes make of a compiled model: real clients, compared with onnxruntime in Python.

    python -m benchmarks.runtimes --clients FOLDER --install   # renews docs/runtimes.md

A decoder with a cache and a convolutional net are compiled; every client that is installed in
FOLDER runs them on the same inputs, in a process of its own. ``--install`` fills FOLDER from PyPI
and npm first; Chromium and a C++ compiler are taken from the system.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

import torch

from awqc.program import Batch
from awqc.runtimes.onnxruntime import EXACT, Session
from awqc.runtimes.torch_values import to_numpy
from benchmarks.runtimes_browser import find_browser, run_in_browser
from benchmarks.runtimes_clients.codec import decode, encode
from benchmarks.runtimes_install import install, npm_version, python_version
from benchmarks.runtimes_models import Case, conv_case, decoder_case

RESULTS = Path(__file__).parent / "results" / "runtimes.json"
DOCUMENT = Path(__file__).parents[1] / "docs" / "runtimes.md"
CLIENTS = Path(__file__).parent / "runtimes_clients"
TUNED = "ort/model.onnx"
SECONDS = 900.0
HEADINGS = ("runtime", "version", "form", "model", "runs", "largest difference", "message")
Run = Callable[[dict[str, Any]], dict[str, Any]]


@dataclass(frozen=True)
class Client:
    """A runtime as it is used.

    Attributes:
        name: for the table.
        version: of the package that is installed, or None.
        forms: the files, below a compiled folder, that it reads.
        run: gives ``{"runs": […]}`` or ``{"error": …}`` for a job.
        tolerance: largest difference that counts as agreement, where rounding is all there is.
    """

    name: str
    version: str | None
    forms: tuple[str, ...]
    run: Run
    tolerance: float = 1e-4


@dataclass(frozen=True)
class Row:
    """A line of the table; ``difference`` is None where the client gave no outputs."""

    runtime: str
    version: str
    form: str
    model: str
    verdict: str
    difference: float | None = None
    message: str = ""


def process(command: Sequence[str | Path], script: str, folder: Path | None = None) -> Run:
    """Runs a client's script in a process."""

    def run(job: dict[str, Any]) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as scratch:
            given, result = Path(scratch) / "job.json", Path(scratch) / "result.json"
            given.write_text(json.dumps(job))
            try:
                done = subprocess.run(
                    [*command, CLIENTS / script, given, result],
                    cwd=folder, env={**os.environ, "PYTHONWARNINGS": "ignore"},
                    capture_output=True, text=True, timeout=SECONDS, check=False,
                )  # fmt: skip
            except subprocess.TimeoutExpired:
                return {"error": f"no answer within {SECONDS:.0f} s"}
            if not result.is_file():
                return {"error": message_of(done.stderr) or f"exit code {done.returncode}"}
            return dict(json.loads(result.read_text()))

    return run


def message_of(text: str) -> str:
    """The line of an error output that says what happened."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    telling = [line for line in lines if "Error" in line.split(":")[0] or "error" in line[:40]]
    missing = [line for line in lines if " is not in " in line]
    return (missing or telling or lines or [""])[-1]


def clients(root: Path) -> Iterator[Client]:
    """All that are tried."""
    onnx, tuned, archive = ("model.onnx",), ("model.onnx", TUNED), ("model.pt2",)
    node, package = root / "node", root / "node" / "node_modules" / "onnxruntime-web"
    yield Client("onnxruntime-node", npm_version(root, "onnxruntime-node"), tuned,
                 process(["node"], "node.mjs", node))  # fmt: skip
    web = npm_version(root, "onnxruntime-web") if find_browser() else None
    yield Client("onnxruntime-web in Chromium (WebAssembly)", web, tuned,
                 lambda job: run_in_browser(job, package, SECONDS))  # fmt: skip
    yield Client("OpenVINO", python_version(root, "openvino"), onnx,
                 process([root / "openvino" / "bin" / "python"], "openvino_onnx.py"),
                 tolerance=1e-3)  # fmt: skip
    python = [sys.executable]
    eager, ahead = (
        with_options(process(python, "torch_archive.py"), how=how) for how in ("eager", "aoti")
    )
    torch_version = torch.__version__.partition("+")[0]
    yield Client("torch alone", torch_version, archive, eager)
    yield Client("transformers with compressed-tensors", version("compressed-tensors"),
                 ("compressed-tensors",), process(python, "transformers_folder.py"))  # fmt: skip
    run = process([root / "executorch" / "bin" / "python"], "torch_archive.py")
    yield Client("ExecuTorch (portable kernels)", python_version(root, "executorch"), archive,
                 with_options(run, how="executorch"))  # fmt: skip
    yield Client("torch, compiled by AOTInductor", torch_version, archive, ahead)


def with_options(run: Run, **options: str) -> Run:
    """``run`` with more in the job."""
    return lambda job: run({**job, **options})


def try_client(client: Client, case: Case, form: str) -> Row:
    """Run ``case`` from its file ``form`` and compare."""
    make = partial(Row, client.name, client.version or "", form, case.name)
    if client.version is None:
        return make("not installed")
    tuned, path = form == TUNED, case.folder / form
    batches = case.batches[:1] if path.is_dir() else case.batches  # a folder has its own cache
    job = {
        "model": str(path),
        "level": "" if tuned else EXACT,
        "outputs": list(case.outputs),
        "runs": [{name: encode(to_numpy(t)) for name, t in b.items()} for b in batches],
    }
    result = client.run(job)
    if "error" in result:
        return make("**no**", None, message_of(result["error"])[:160])
    exact = worst(result["runs"], Session(case.folder / "model.onnx", "cpu", EXACT), batches)
    same = worst(result["runs"], Session(path, "cpu"), batches) if tuned else exact
    if same > client.tolerance >= exact:
        return make("yes", exact, "computes in float32, whatever the level")
    return make("yes" if same <= client.tolerance else "**differs**", same)


def worst(found: Sequence[dict[str, Any]], reference: Session, batches: Sequence[Batch]) -> float:
    """Largest difference over all runs."""
    pairs = zip(found, batches, strict=True)
    return max(difference(outputs, reference, batch) for outputs, batch in pairs)


def difference(found: dict[str, Any], reference: Session, batch: Batch) -> float:
    """Largest difference of an output, over its largest value."""
    wanted = dict(zip(reference.outputs, reference.run(batch), strict=True))
    largest = 0.0
    for name, value in found.items():
        array = torch.from_numpy(decode(value)).double()
        other = wanted[name].double()
        gap = (array.reshape(other.shape) - other).abs().max() / other.abs().max().clamp(min=1e-30)
        largest = max(largest, float(gap.nan_to_num(float("inf"))))
    return largest


HEADING = "## What others do with the files\n"
TEXT = (
    HEADING
    + """
What runs the files of a compiled model as they are. The table is written by
`python -m benchmarks.runtimes --clients FOLDER --install`: each runtime loads the file in a process
of its own and runs it on inputs of two sizes; a decoder first on a prompt with nothing cached,
then on one more token with the cache.

*Largest difference*: of any output from onnxruntime in Python, over that output's largest value.
`model.onnx` and `model.pt2` are compared with `model.onnx` at the exact level (products in
float32), `ort/model.onnx` with itself at the level that it was written with (4: activations
rounded to 8 bits). OpenVINO was told to compute in float32 (`INFERENCE_PRECISION_HINT: f32`,
`DYNAMIC_QUANTIZATION_GROUP_SIZE: 0`); by default it rounds activations too.

{table}

`awq/`, which is not in the table, is read by engines that need a GPU; its layout is checked by a
reader in the tests. Checkpoints with zero points are loaded by
transformers with `CompressedTensorsConfig(dequantize=True)`, symmetric ones (`--symmetric`)
without it.
"""
)


def document(rows: Sequence[Row]) -> str:
    """The measured part of the page; what stands above it is written by hand."""
    lines = ["| " + " | ".join(HEADINGS) + " |", "|---" * len(HEADINGS) + "|"]
    for row in rows:
        gap = "" if row.difference is None else f"{row.difference:.0e}"
        message = row.message.replace("|", "\\|")
        cells = (row.runtime, row.version, f"`{row.form}`", row.model, row.verdict, gap, message)
        lines.append("| " + " | ".join(cells) + " |")
    above = DOCUMENT.read_text(encoding="utf-8").partition(HEADING)[0]
    return above + TEXT.format(table="\n".join(lines))


def read_rows() -> list[Row]:
    """What was found before."""
    if not RESULTS.is_file():
        return []
    return [Row(**row) for row in json.loads(RESULTS.read_text())]


def main() -> None:
    """Run all clients and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=Path, required=True, help="where they are installed")
    parser.add_argument("--install", action="store_true", help="install them first")
    parser.add_argument("--only", default="", help="anew: runtimes whose name holds this")
    arguments = parser.parse_args()
    if arguments.install:
        install(arguments.clients)
    rows = {(row.runtime, row.form, row.model): row for row in read_rows()}
    with tempfile.TemporaryDirectory() as scratch:
        cases = [decoder_case(Path(scratch) / "decoder"), conv_case(Path(scratch) / "conv")]
        for client in clients(arguments.clients.resolve()):
            for form, case in product(client.forms, cases):
                if arguments.only in client.name and (case.folder / form).exists():
                    row = try_client(client, case, form)
                    print(row, flush=True)
                    rows[row.runtime, row.form, row.model] = row
                    RESULTS.write_text(json.dumps([asdict(r) for r in rows.values()], indent=2))
                    DOCUMENT.write_text(document(list(rows.values())), encoding="utf-8")


if __name__ == "__main__":
    main()
