"""Products in PyTorch: 4-bit weights in torch's int4 kernel against the float model, in one run.

    python -m benchmarks.torch_int4          # writes results/torch_int4.json

A stack of layers of hidden size 2048 (gated, 5632 wide inside; random weights, groups of 128,
rounded to nearest), on 1, 16 and 128 rows. All forms run the same captured graph on the same input,
in turns: in float32, in bfloat16, dequantizing at each run (float32), and with the kernel.
Milliseconds are medians; ``least_ms`` the shortest runs, which a busy machine disturbs least.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from awqc.capture.module import capture_module
from awqc.export.pt2 import export_pt2
from awqc.passes.convert_dtype import ConvertDtype
from awqc.passes.pipeline import parse_pipeline
from awqc.program import bind_batch
from awqc.report.content import environment
from awqc.runtimes.torch_int4 import load

RESULTS = Path(__file__).parent / "results" / "torch_int4.json"
HIDDEN, INNER = 2048, 5632
ROWS = (1, 16, 128)


class Layer(nn.Module):
    """The products of a decoder's layer, without its attention."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.RMSNorm(HIDDEN), nn.RMSNorm(HIDDEN)
        self.mix, self.out = nn.Linear(HIDDEN, HIDDEN), nn.Linear(HIDDEN, HIDDEN)
        self.gate, self.up = nn.Linear(HIDDEN, INNER), nn.Linear(HIDDEN, INNER)
        self.down = nn.Linear(INNER, HIDDEN)

    def forward(self, x: Tensor) -> Tensor:
        """``(rows, HIDDEN)`` to the same shape."""
        x = x + self.out(self.mix(self.first(x)))
        h = self.second(x)
        gated: Tensor = self.down(torch.nn.functional.silu(self.gate(h)) * self.up(h))
        return x + gated


def interleaved(runs: dict[str, Callable[[], Any]], turns: int) -> dict[str, list[float]]:
    """Milliseconds of each, in turns; the first turn warms up."""
    took: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(turns + 1):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            if turn:
                took[name].append(1e3 * (time.perf_counter() - started))
    return took


def main() -> None:
    """Measure, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    model = nn.Sequential(*(Layer() for _ in range(arguments.layers))).eval()
    floats = capture_module(model, (torch.randn(2, HIDDEN),))
    parse_pipeline("canonicalize").run(floats)
    half, quantized = floats.clone(), floats.clone()
    ConvertDtype("bfloat16").apply(half)
    half.tidy()
    options = {"bits": 4, "group_size": 128}
    parse_pipeline("quantize-weights", quantize_weights=options).run(quantized)
    with tempfile.TemporaryDirectory() as scratch:
        export_pt2(quantized, Path(scratch) / "model.pt2")
        kernel = load(Path(scratch) / "model.pt2")
    models: dict[str, Any] = {
        "float32": floats,
        "bfloat16": half,
        "dequantizing": quantized,
        "int4": kernel,
    }
    took, errors = {}, {}
    for rows in ROWS:
        x = torch.randn(rows, HIDDEN)
        batches = {
            name: bind_batch(form.inputs, [x.to(form.inputs[0].dtype)])
            for name, form in models.items()
        }
        wanted = quantized.run(batches["dequantizing"])[0]
        errors[rows] = float((kernel.run(batches["int4"])[0] - wanted).norm() / wanted.norm())
        runs: dict[str, Callable[[], Any]]
        runs = {name: partial(form.run, batches[name]) for name, form in models.items()}
        took[rows] = interleaved(runs, arguments.turns)
    medians = {r: {n: statistics.median(t) for n, t in ms.items()} for r, ms in took.items()}
    result = {
        "layers": arguments.layers,
        "in_kernel": len(kernel.fast),
        "portable": kernel.portable,
        "ms": medians,
        "least_ms": {r: {n: min(t) for n, t in ms.items()} for r, ms in took.items()},
        "speedup_over_float32": {r: ms["float32"] / ms["int4"] for r, ms in medians.items()},
        "difference_by_bfloat16": errors,
        "environment": environment(),
    }
    print(json.dumps(result, indent=2))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
