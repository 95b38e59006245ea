"""Text that a causal language model makes up itself, for want of other text."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from awqc.kv_cache import empty_shape
from awqc.machine.progress import track
from awqc.program import Batch, Program

GENERATED = (32, 256)
"""Sequences, and tokens of each, that are made up: they cost a forward a token."""

TOP_K = 50


def generate_text(
    program: Program,
    prefix: Sequence[int],
    *,
    vocabulary: int,
    shape: tuple[int, int],
    generator: torch.Generator,
) -> Tensor:
    """Token ids of ``shape`` ``(count, length)``, sampled from the program at temperature 1.

    Each sequence begins with ``prefix`` and one token drawn from the whole vocabulary, so
    that they differ; the rest is drawn from the `TOP_K` likeliest. Needs a program with a
    cache. Source: LLM-QAT, arXiv 2305.17888, section 3.1.
    """
    count, length = shape
    start = torch.tensor([list(prefix)] * count, dtype=torch.long).reshape(count, len(prefix))
    first = torch.randint(vocabulary, (count, 1), generator=generator)
    ids = torch.cat([start, first], dim=1)[:, :length]
    fresh, past = ids, _empty_past(program, count)
    for _ in track(range(length - ids.shape[1]), "make up text"):
        values = program.run(_step(program, fresh, past, ids.shape[1]))
        outputs = dict(zip(program.outputs, values, strict=True))
        fresh = sample(outputs[program.outputs[0]][:, -1].float(), generator)
        past = {name: outputs[new] for name, new in program.states}
        ids = torch.cat([ids, fresh], dim=1)
    return ids


def sample(logits: Tensor, generator: torch.Generator) -> Tensor:
    """One token ``(batch, 1)`` drawn by ``logits`` ``(batch, vocabulary)``."""
    best = logits.topk(min(TOP_K, logits.shape[-1]))
    drawn = torch.multinomial(best.values.softmax(-1), 1, generator=generator)
    return best.indices.gather(1, drawn)


def _empty_past(program: Program, count: int) -> Batch:
    shapes = {spec.name: spec.shape for spec in program.inputs}
    return {
        name: program.example[name].new_zeros(empty_shape(shapes[name], count))
        for name, _ in program.states
    }


def _step(program: Program, fresh: Tensor, past: Batch, total: int) -> Batch:
    """Inputs for the tokens ``fresh``, the last of ``total``."""
    batch, new = fresh.shape
    made = {
        "input_ids": fresh,
        "attention_mask": torch.ones(batch, total, dtype=torch.long),
        "position_ids": torch.arange(total - new, total).repeat(batch, 1),
    }
    return {spec.name: made[spec.name] for spec in program.inputs if spec.name in made} | past
