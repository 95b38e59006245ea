"""How narrow may layers be until low-bit products are slower than float ones?

    python -m benchmarks.latency_small      # writes benchmarks/results/latency_small.json

Eight blocks of two linears, ``width -> 4 width -> width``, random weights, batch 1: CPU time of
one thread at the default level, the ort form against float ONNX, in turns.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import onnxruntime as ort
import torch
from torch import nn

from awqc.capture.module import capture_module
from awqc.export.onnx import export_onnx
from awqc.export.ort import export_ort
from awqc.report.content import environment
from benchmarks.width_models import cpu_seconds, quantize, runner, session

RESULTS = Path(__file__).parent / "results" / "latency_small.json"
WIDTHS = (32, 64, 96, 128, 192, 256)
TOKENS = (1, 32)
BLOCKS, RUNS, TURNS = 8, 50, 6


def build(width: int, tokens: int, folder: Path) -> dict[str, Path]:
    """The models, by name."""
    torch.manual_seed(0)

    def make() -> list[nn.Module]:
        return [nn.Linear(width, 4 * width), nn.ReLU(), nn.Linear(4 * width, width)]

    net = nn.Sequential(*(layer for _ in range(BLOCKS) for layer in make()))
    program = capture_module(net.eval(), (torch.randn(2, tokens, width),))
    paths = {"float": folder / "float.onnx"}
    export_onnx(program, paths["float"])
    for bits in (4, 8):
        name = f"{bits} bits"
        paths[name] = folder / name / "model.onnx"
        paths[name].parent.mkdir()
        quantize(copied := program.clone(), bits=bits, group_size="auto")
        export_onnx(copied, folder / "qdq.onnx")
        export_ort(folder / "qdq.onnx", paths[name])
    return paths


def repeated(path: Path, x: torch.Tensor) -> Callable[[], object]:
    """`RUNS` runs, so that the clock's steps are small beside them."""
    model = session(path)
    run = runner(model, {model.get_inputs()[0].name: ort.OrtValue.ortvalue_from_numpy(x.numpy())})
    return lambda: [run() for _ in range(RUNS)]


def main() -> None:
    """Measure, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    rows = []
    for width, tokens in itertools.product(WIDTHS, TOKENS):
        with tempfile.TemporaryDirectory() as scratch:
            paths = build(width, tokens, Path(scratch))
            x = torch.randn(1, tokens, width)
            found = cpu_seconds({name: repeated(path, x) for name, path in paths.items()}, TURNS)
        micro = {name: value / RUNS * 1e6 for name, value in found.items()}
        speedup = {name: found["float"] / value for name, value in found.items()}
        rows.append({"width": width, "tokens": tokens, "cpu_us": micro, "speedup": speedup})
        print(width, tokens, {name: round(value, 2) for name, value in speedup.items()})
    result = {"blocks": BLOCKS, "models": rows, "environment": environment()}
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
