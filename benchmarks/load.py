"""Loading a model with more than 400 MB of 4-bit weights: CPU time and memory, form by form.

    python -m benchmarks.load             # writes benchmarks/results/load.json

A decoder of width 2048 with random weights. Each load is in a fresh process with onnxruntime
imported before: CPU seconds of making the session, then what the process holds after loading and
after one step, of which ``anonymous`` memory is its own, the rest being pages of files. Forms take
turns; medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "load.json"
FORMS = {
    "qdq": "qdq/model.onnx",
    "qdq, external data": "external/model.onnx",
    "ort": "ort/model.onnx",
    "ort, packed for this machine": "packed/model.onnx",
}
FIELDS = {"VmRSS": "rss_mb", "RssAnon": "anonymous_mb", "VmHWM": "peak_mb"}


def build(folder: Path, layers: int, hidden: int) -> None:
    """Write all forms of one model into ``folder``."""
    from awqc.export.onnx import export_onnx
    from awqc.export.ort import export_ort
    from benchmarks.width_models import decoder, quantize

    paths = {name: folder / path for name, path in FORMS.items()}
    for path in paths.values():
        path.parent.mkdir(parents=True)
    program = quantize(decoder(layers, hidden), bits=4, group_size=128)
    export_onnx(program, paths["qdq"])
    export_onnx(program, paths["qdq, external data"], external_data=True)
    export_ort(paths["qdq, external data"], paths["ort"])
    pack(paths["ort"], paths["ort, packed for this machine"])


def pack(source: Path, target: Path) -> None:
    """Let onnxruntime write ``source`` as it runs it, with weights packed for its kernels."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(target)
    for key, value in {
        "save_external_prepacked_constant_initializers": "1",
        "optimized_model_external_initializers_file_name": f"{target.name}.data",
    }.items():
        options.add_session_config_entry(f"session.{key}", value)
    ort.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])


def memory() -> dict[str, float]:
    """What this process holds now, in MB of 2**20 bytes."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {name: int(lines[key].split()[0]) / 1024 for key, name in FIELDS.items()}


def probe(path: Path) -> dict[str, Any]:
    """Load ``path`` in this process, and run one step."""
    import time

    import numpy as np
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    before = memory()
    started = time.process_time()
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    seconds = time.process_time() - started
    loaded = memory()
    types = {"tensor(int64)": np.int64, "tensor(float)": np.float32}
    feeds = {
        spec.name: np.ones(
            [size if isinstance(size, int) else int(size != "past") for size in spec.shape],
            types[spec.type],
        )
        for spec in session.get_inputs()
    }
    if "position_ids" in feeds:
        feeds["position_ids"] *= 0
    session.run(None, feeds)
    return {"cpu_s": seconds, "before": before, "loaded": loaded, "after_a_step": memory()}


def measure(folder: Path, turns: int) -> dict[str, Any]:
    """Medians of ``turns`` fresh processes a form."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in FORMS}
    for _ in range(turns):
        for name, path in FORMS.items():
            command = [sys.executable, "-m", "benchmarks.load", "--probe", str(folder / path)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found[name].append(json.loads(done.stdout))
    return {name: _median(values) for name, values in found.items()}


def _median(values: list[Any]) -> Any:
    if isinstance(values[0], dict):
        return {key: _median([value[key] for value in values]) for key in values[0]}
    return statistics.median(values)


def main() -> None:
    """Measure, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--folder", type=Path, help="forms that are written already")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--probe", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    if given.probe is not None:
        print(json.dumps(probe(given.probe)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.folder or Path(scratch)
        if given.folder is None:
            build(folder, given.layers, given.hidden)
        size, packed = (
            (folder / name / "model.onnx.data").stat().st_size for name in ("ort", "packed")
        )
        forms = measure(folder, given.turns)
    ort = forms["ort"]
    result = {
        "weights_mb": size / 2**20,
        "packed_mb": packed / 2**20,
        "forms": forms,
        "over_ort": {
            name: {
                "cpu": form["cpu_s"] / ort["cpu_s"],
                "peak": form["after_a_step"]["peak_mb"] / ort["after_a_step"]["peak_mb"],
                "held": form["after_a_step"]["rss_mb"] / ort["after_a_step"]["rss_mb"],
            }
            for name, form in forms.items()
        },
    }
    print(json.dumps(result, indent=2))
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
