"""What a search that knows onnxruntime's int8 activations gains in a default session.

    python -m benchmarks.runtime_numerics --calib TEXT --text TEXT

SmolLM2-135M is quantized twice from the same statistics: scales searched for the weights alone
(``--runtime-numerics fp``) and for what a default session computes (``ort-default``). Both are
exported, and run on held-out text at the exact and at the default level: perplexity, and KL
divergence from the float model in nats.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from awqc.data.text_batches import TextModel, packed_sequences, text_calibration
from awqc.export.onnx import export_onnx
from awqc.huggingface.capture import load_folder
from awqc.huggingface.folder import HFFolder
from awqc.huggingface.tokens import token_batch
from awqc.options import parse_options
from awqc.options.chosen_passes import build_pipeline
from awqc.passes.pipeline import Pipeline
from awqc.program import Batch, Program
from awqc.report.content import environment
from awqc.runtimes.onnxruntime import DEFAULT, EXACT, Session
from awqc.verify.text_quality import TextQuality
from benchmarks.models import smollm2

RESULTS = Path(__file__).parent / "results" / "runtime_numerics.json"
NUMERICS = ("fp", "ort-default")
LEVELS = {"exact": EXACT, "default": DEFAULT}
SEQ_LEN = 512


def pipeline(numerics: str, group_size: int) -> Pipeline:
    """The passes of effort fast, with scales searched under ``numerics``."""
    return build_pipeline(
        parse_options(bits=4, group_size=group_size, effort="fast", runtime_numerics=numerics)
    )


def quantized(
    program: Program, batches: Sequence[Batch], group_size: int
) -> Iterator[tuple[str, Program]]:
    """``program`` quantized under each numerics, from one calibration."""
    passes = pipeline(NUMERICS[-1], group_size).passes
    shared = 1 + [step.name for step in passes].index("calibrate")
    Pipeline(passes[:shared]).run(program, batches)
    for numerics in NUMERICS:
        copy = program.clone()
        rest = pipeline(numerics, group_size).passes[shared:]
        Pipeline(rest, copy.findings.facts).run(copy)
        yield numerics, copy


def measure(path: Path, program: Program, text: Tensor, float_logits: list[Tensor]) -> Any:
    """Quality of the model at ``path`` at each level."""
    found = {}
    for name, level in LEVELS.items():
        session, quality = Session(path, "cpu", level), TextQuality()
        for row, wanted in zip(text.split(1), float_logits, strict=True):
            (logits,) = session.run(token_batch(program, row), only=["logits"])
            quality.add(logits, row, row * 0 + 1, wanted)
        found[name] = quality.as_dict()
    return found


def main() -> None:
    """Measure, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calib", type=Path, required=True, help="text to calibrate on")
    parser.add_argument("--text", type=Path, required=True, help="text to measure on")
    parser.add_argument("--num-samples", type=int, default=64)
    parser.add_argument("--eval-samples", type=int, default=16)
    parser.add_argument("--group-size", type=int, default=64)
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    folder = HFFolder.at(smollm2())
    program = load_folder(smollm2())
    text = packed_sequences(TextModel.of(program, folder), given.text, given.eval_samples, SEQ_LEN)
    float_logits = [program.run(token_batch(program, row))[0] for row in text.split(1)]
    batches = text_calibration(
        program, folder, given.calib, num_samples=given.num_samples, seq_len=SEQ_LEN
    ).batches
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        for numerics, made in quantized(program, batches, given.group_size):
            path = Path(scratch) / f"{numerics}.onnx"
            export_onnx(made, path)
            found[numerics] = measure(path, made, text, float_logits)
            print(numerics, json.dumps(found[numerics]), flush=True)
    result = {"group_size": given.group_size, "models": found, "environment": environment()}
    given.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
