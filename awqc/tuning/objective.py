"""How far a model's outputs are from another's, as a number to descend on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from awqc.program import Batch, Program

ROWS = 128
TINY = 1e-12


def distance(
    program: Program, batch: Batch, outputs: Sequence[Tensor], wanted: Sequence[Tensor]
) -> Tensor:
    """Zero where ``outputs`` are ``wanted``; a scalar with gradients for ``outputs``.

    Logits over a vocabulary count by their mean KL divergence, in nats; other floating
    outputs by ``|y - t|^2 / |t|^2``. Carried states and padding do not count.
    """
    states = program.scaled_outputs()
    mask = batch[program.mask_input].bool() if program.mask_input else None
    total = torch.zeros(())
    for name, now, then in zip(program.outputs, outputs, wanted, strict=True):
        if name in states or not now.is_floating_point() or now.numel() == 0:
            continue
        if mask is not None and now.ndim > mask.ndim and now.shape[: mask.ndim] == mask.shape:
            now, then = now[mask], then[mask]
        if name in program.head_outputs:
            total = total + _divergence(now.flatten(0, -2), then.flatten(0, -2))
        else:
            total = total + (now - then).square().sum() / then.square().sum().clamp(min=TINY)
    return total


def _divergence(now: Tensor, then: Tensor) -> Tensor:
    """Mean KL(then || now) over rows, a slice of rows at a time."""
    parts = []
    for scores, wanted in zip(now.split(ROWS), then.split(ROWS), strict=True):
        log_now, log_then = scores.log_softmax(-1), wanted.log_softmax(-1)
        parts.append((log_then.exp() * (log_then - log_now)).sum())
    return torch.stack(parts).sum() / max(len(now), 1)
