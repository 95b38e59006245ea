"""What onnxruntime's low-bit products do to their input at accuracy level 4, its default.

The input is rounded to int8, symmetrically, a scale for each token and block of columns as wide as
the weight's block. Scales that move outliers from the input into the weight lower that error,
so a search that knows of it chooses others. Source: MatMulNBits of onnxruntime, ``accuracy_level``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from awqc.numerics.formats.base import WeightFormat
from awqc.numerics.formats.int_grid import IntGrid

LARGEST = 127
CHANNEL_BLOCK = 32
"""Block of a weight with one scale a channel, which onnxruntime cuts when it fuses."""


def kernel_block(form: WeightFormat, columns: int) -> int:
    """Columns that share a scale of the rounded input."""
    a_scale_a_row = isinstance(form, IntGrid) and form.group_size == -1
    return CHANNEL_BLOCK if a_scale_a_row else form.width(columns)


def round_inputs(x: Tensor, width: int) -> Tensor:
    """``x`` ``(..., K)`` in int8 steps and back, float32; blocks of ``width`` along K."""
    columns = x.shape[-1]
    padded = torch.nn.functional.pad(x, (0, -columns % width))
    grouped = padded.unflatten(-1, (-1, width))
    peak = grouped.abs().amax(dim=-1, keepdim=True)
    scale = (peak / LARGEST).clamp(min=torch.finfo(torch.float32).tiny)
    rounded: Tensor = (grouped / scale).round().mul(scale)
    return rounded.flatten(-2)[..., :columns]


def input_loss(weight: Tensor, sample: Tensor, scale: Tensor | None, width: int) -> float:
    """``|| W s (Q(x / s) - x / s) ||^2``, mean over tokens.

    Args:
        weight: ``(blocks, rows, K)``.
        sample: tokens ``(blocks, n, K)``.
        scale: ``(blocks, 1, K)``, or None for one.
        width: columns that are rounded together.
    """
    x, w = (sample, weight) if scale is None else (sample / scale, weight * scale)
    error = round_inputs(x, width) - x
    return float((error @ w.transpose(1, 2)).square().sum()) / max(sample.shape[1], 1)
