"""Decoders of any width with random weights: for what depends on sizes, not on training."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from awqc.capture.huggingface import load_program
from awqc.passes.pipeline import parse_pipeline
from awqc.program import Program

NEAREST = "canonicalize,quantize-weights"
VOCABULARY = 8192


def decoder(layers: int, hidden: int, *, vocabulary: int = VOCABULARY) -> Program:
    """A Llama-like decoder with a cache: heads of 64, 4 to a key/value head, MLP of 2.75 widths."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=hidden,
        intermediate_size=hidden * 11 // 4,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=hidden // 256,
        vocab_size=vocabulary,
        tie_word_embeddings=False,
        max_position_embeddings=4096,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        del model
        return load_program(Path(folder))


def quantize(program: Program, **options: Any) -> Program:
    """``program`` rounded to nearest, which costs what scaled weights cost."""
    parse_pipeline(NEAREST, quantize_weights=options).run(program)
    return program


def timed(runs: dict[str, Callable[[], object]], turns: int) -> dict[str, list[float]]:
    """Seconds of each of ``runs``, which take turns, after one that does not count."""
    import time

    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(turns + 1):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            if turn:
                seconds[name].append(time.perf_counter() - started)
    return seconds
