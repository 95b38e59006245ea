"""What of a program's outputs is measured, and what it is measured against."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from awqc.graph.nodes import results_of
from awqc.program import Batch, Program
from awqc.verify.gaps import Gaps
from awqc.verify.text_quality import TextQuality

STATE_RANK = 4
"""Axes of a cache: rows, heads, tokens, width."""


def gaps_of(program: Program) -> Gaps:
    """Gaps for the outputs of ``program``, without a batch yet."""
    return Gaps(program.scaled_outputs(), _constant_outputs(program))


def _constant_outputs(program: Program) -> set[str]:
    """Outputs that no input reaches."""
    reached = {node for node in program.graph.nodes if node.op == "placeholder"}
    for node in program.graph.nodes:
        if not reached.isdisjoint(node.all_input_nodes):
            reached.add(node)
    made = results_of(program.graph)
    return {name for name, node in zip(program.outputs, made, strict=True) if node not in reached}


def gather(
    program: Program,
    gaps: Gaps,
    now: Sequence[Tensor],
    wanted: Sequence[Tensor],
    batch: Batch,
    *,
    states: bool,
    names: Sequence[str] | None = None,
) -> None:
    """Add the outputs ``names``, or all; carried states, which folds may scale, only if ``states``.

    Tokens that the mask of ``batch`` marks as padding do not count, in states either.
    """
    carried = program.scaled_outputs()
    for name, value, reference in zip(names or program.outputs, now, wanted, strict=True):
        if states or name not in carried:
            gaps.add(name, *by_tokens(program, batch, name, value, reference))


def by_tokens(
    program: Program, batch: Batch, name: str, now: Tensor, wanted: Tensor
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Two values of the output ``name`` with tokens next to rows, and the mask of those that count.

    Of a state these are all places of the cache: what stands at padding is read by nothing.
    """
    mask = _mask(program, batch)
    if mask is None or name not in {output for _, output in program.states}:
        return now, wanted, mask
    whole = batch[program.mask_input or ""].bool()
    placed = now.ndim == wanted.ndim == STATE_RANK and whole.shape == wanted.shape[::2]
    if not placed or whole.all():
        return now, wanted, None
    return now.transpose(1, 2), wanted.transpose(1, 2), whole


def judge(
    program: Program,
    quality: TextQuality,
    outputs: Sequence[Tensor],
    batch: Batch,
    original: Sequence[Tensor] | None,
) -> None:
    """Judge the logits of a decoder against the text that it read, and the original's logits.

    Nothing is done where ``program`` is no decoder, or reads no text.
    """
    ids = batch.get("input_ids")
    if ids is None or not program.head_outputs or not program.states:
        return
    index = program.outputs.index(program.head_outputs[0])
    mask = _mask(program, batch)
    mask = torch.ones_like(ids) if mask is None else mask
    quality.add(outputs[index], ids, mask, None if original is None else original[index])


def _mask(program: Program, batch: Batch) -> Tensor | None:
    """Which of the tokens of ``batch`` are text."""
    if program.mask_input is None:
        return None
    mask, ids = batch[program.mask_input].bool(), batch.get("input_ids")
    # It covers a past as well, which comes first.
    return mask if ids is None else mask[:, mask.shape[1] - ids.shape[1] :]
