"""How far a model's outputs are from another's, as a number to descend on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from awqc.machine.devices import moved
from awqc.program import Batch, Program

ELEMENTS = 2**20
"""Logits whose divergence is computed at once."""
TINY = 1e-12


def distance(
    program: Program, batch: Batch, outputs: Sequence[Tensor], wanted: Sequence[Tensor]
) -> Tensor:
    """Zero where ``outputs`` are ``wanted``; a scalar with gradients for ``outputs``.

    Logits over a vocabulary count by their mean KL divergence, in nats; other floating
    outputs by ``|y - t|^2 / |t|^2``. Carried states and padding do not count.
    """
    states = program.scaled_outputs()
    total = torch.zeros((), device=outputs[0].device if outputs else None)
    for name, now, then in zip(program.outputs, outputs, wanted, strict=True):
        if name in states or not now.is_floating_point() or now.numel() == 0:
            continue
        mask = counting(program, batch, now.shape)
        if mask is not None:
            mask = moved(mask, now.device)
            now, then = now[mask], then[mask]
        if name in program.head_outputs:
            now, then = now.flatten(0, -2), then.flatten(0, -2)
            total = total + divergence(now, then) / max(len(now), 1)
        else:
            total = total + (now - then).square().sum() / then.square().sum().clamp(min=TINY)
    return total


def counting(program: Program, batch: Batch, shape: Sequence[int]) -> Tensor | None:
    """Which of the first axes of an output of ``shape`` are no padding; None: all are."""
    if not program.mask_input:
        return None
    mask = batch[program.mask_input].bool()
    if mask.all() or len(shape) <= mask.ndim or tuple(shape[: mask.ndim]) != tuple(mask.shape):
        return None
    return mask


class _Divergence(torch.autograd.Function):
    """KL(then || now), summed over rows, a slice of rows at a time.

    Its gradient is the difference of the two softmaxes: one tensor of the logits' size is all
    that is kept, where autograd would keep four.
    """

    @staticmethod
    def forward(ctx: Any, now: Tensor, then: Tensor) -> Tensor:
        """``now`` and ``then`` are logits ``(rows, vocabulary)``."""
        gradients = torch.empty_like(now) if ctx.needs_input_grad[0] else None
        total = now.new_zeros(())
        rows = max(1, ELEMENTS // max(now.shape[-1], 1))
        for first in range(0, len(now), rows):
            part = slice(first, first + rows)
            log_now, log_then = now[part].log_softmax(-1), then[part].log_softmax(-1)
            likely = log_then.exp()
            total += (likely * (log_then - log_now)).sum()
            if gradients is not None:
                torch.sub(log_now.exp_(), likely, out=gradients[part])
        ctx.save_for_backward(gradients)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """``softmax(now) - softmax(then)``."""
        gradient: Tensor = ctx.saved_tensors[0]
        return gradient.mul_(gradients[0]), None


def divergence(now: Tensor, then: Tensor) -> Tensor:
    """KL(then || now) of logits ``(rows, vocabulary)``, summed over rows."""
    result: Tensor = _Divergence.apply(now, then)  # type: ignore[no-untyped-call]  # torch declares no types for apply
    return result
