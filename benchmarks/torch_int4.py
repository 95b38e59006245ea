"""Decode in PyTorch: 4-bit weights in torch's int4 kernel against the float model, in one run.

    python -m benchmarks.torch_int4          # writes results/torch_int4.json

A decoder of hidden size 2048 with random weights (2 layers, groups of 128, rounded to nearest,
the head in float), one token at a time, with a past of 64 tokens. All run the same captured
graph on the same inputs, in turns: in float32, in bfloat16, dequantizing at each run (float32),
and with the kernel. Milliseconds are medians.
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

from awqc.backends.torch_model import TorchModel, load_torch_int4
from awqc.capture.huggingface import load_program
from awqc.export.pt2 import export_pt2
from awqc.passes.convert_dtype import ConvertDtype
from awqc.passes.pipeline import parse_pipeline
from awqc.program import Batch, Program, bind_batch
from awqc.report.content import environment

RESULTS = Path(__file__).parent / "results" / "torch_int4.json"
OPTIONS = {"bits": 4, "group_size": 128, "head_bits": 0, "embed_bits": 0}
SIZES = {
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "vocab_size": 1024,
}
PAST = 64
TOKENS = (1, 16)


def save_model(folder: Path, layers: int) -> None:
    """Write a random decoder."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model("llama", num_hidden_layers=layers, **SIZES)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)


def decode_batch(like: Program, model: Program | TorchModel, tokens: int) -> Batch:
    """``tokens`` new tokens after a past of `PAST`, batch 1, for ``model``, a form of ``like``."""
    generator = torch.Generator().manual_seed(0)
    made: Batch = {
        "input_ids": torch.randint(SIZES["vocab_size"], (1, tokens), generator=generator),
        "attention_mask": torch.ones(1, PAST + tokens, dtype=torch.long),
        "position_ids": torch.arange(PAST, PAST + tokens).unsqueeze(0),
    }
    tensors = []
    for spec in like.inputs:
        if spec.name not in made:
            _, heads, _, width = spec.shape
            past = torch.randn(1, int(heads), PAST, int(width), generator=generator)
            made[spec.name] = past.to(spec.dtype)
        tensors.append(made[spec.name])
    return bind_batch(model.inputs, tensors)


def interleaved(runs: dict[str, Callable[[], Any]], turns: int) -> dict[str, float]:
    """Median milliseconds of each, in turns."""
    took: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(turns + 1):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            if turn:  # the first warms up
                took[name].append(1e3 * (time.perf_counter() - started))
    return {name: statistics.median(values) for name, values in took.items()}


def main() -> None:
    """Measure, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        source, archive = Path(scratch) / "model", Path(scratch) / "model.pt2"
        save_model(source, arguments.layers)
        floats = load_program(source)
        parse_pipeline("canonicalize").run(floats)
        half = floats.clone()
        ConvertDtype("bfloat16").apply(half)
        half.tidy()
        quantized = load_program(source)
        parse_pipeline("canonicalize,quantize-weights", quantize_weights=OPTIONS).run(quantized)
        export_pt2(quantized, archive)
        kernel = load_torch_int4(archive)
    models = {"float32": floats, "bfloat16": half, "dequantizing": quantized, "int4": kernel}
    took, errors = {}, {}
    for tokens in TOKENS:
        batches = {
            name: decode_batch(half if name == "bfloat16" else floats, model, tokens)
            for name, model in models.items()
        }
        wanted = quantized.run(batches["dequantizing"])[0]
        found = kernel.run(batches["int4"])[0]
        errors[tokens] = float((found - wanted).norm() / wanted.norm())
        turns = arguments.turns if tokens == 1 else max(3, arguments.turns // 3)
        took[tokens] = interleaved(
            {name: partial(model.run, batches[name]) for name, model in models.items()}, turns
        )
    result = {
        "layers": arguments.layers,
        "in_kernel": len(kernel.fast),
        "portable": kernel.portable,
        "ms": took,
        "speedup_over_float32": {t: ms["float32"] / ms["int4"] for t, ms in took.items()},
        "logits_difference_by_bfloat16": errors,
        "environment": environment(),
    }
    print(json.dumps(result, indent=2))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
