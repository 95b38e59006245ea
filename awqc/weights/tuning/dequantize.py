"""Dequantizing with gradients for the scales, which keeps nothing but the packed codes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from awqc.numerics.qparams import QuantizedWeight, to_groups


class _Dequantize(torch.autograd.Function):
    """``steps * scale`` with steps made from codes when they are needed, each time anew."""

    @staticmethod
    def forward(ctx: Any, scale: Tensor, weight: QuantizedWeight) -> Tensor:
        ctx.weight = weight
        grouped = _steps(weight)
        values = (grouped * scale.unsqueeze(-1)).flatten(-2)[:, : weight.columns]
        return values.reshape(weight.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """``dL/dscale``: the gradient times the steps, summed over each group."""
        weight = ctx.weight
        gradient = gradients[0].reshape(-1, weight.columns)
        grouped, steps = to_groups(gradient, weight.granularity), _steps(weight)
        missing = grouped.shape[1] * grouped.shape[2] - weight.columns
        if missing:
            steps[:, -1, -missing:] = 0
        return (grouped * steps).sum(-1), None


def dequantize(weight: QuantizedWeight, scale: Tensor) -> Tensor:
    """``weight`` with ``scale`` ``(rows, groups)`` in place of its own, in its shape.

    Gradients flow to ``scale``; no float copy of the weight is kept for them.
    """
    result: Tensor = _Dequantize.apply(scale, weight)  # type: ignore[no-untyped-call]  # torch declares no types for apply
    return result


def _steps(weight: QuantizedWeight) -> Tensor:
    """Codes less zero point: float32 ``(rows, groups, width)``."""
    granularity = weight.granularity
    grouped = to_groups(weight.codes, granularity).float()
    if weight.zero_point is None:
        return grouped - granularity.midpoint
    return grouped - weight.zero_point.float().unsqueeze(-1)
