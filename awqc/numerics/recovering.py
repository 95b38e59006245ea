"""What codes mean, from the value that they give: an archive does not say."""

from __future__ import annotations

import torch
from torch import Tensor

from awqc.numerics.formats.base import QuantizedWeight
from awqc.numerics.formats.int_grid import BITS, IntGrid


def recovered_zero_points(
    codes: Tensor, scale: Tensor, zero_point: Tensor | None, value: Tensor, group_size: int
) -> Tensor | None:
    """The zero points with which ``codes`` give ``value`` exactly, or None if none do.

    Args:
        codes: uint8 ``(rows, columns)``, one a byte.
        scale: float ``(rows, groups)``.
        zero_point: uint8 ``(rows, groups)``; None: the midpoint of some width.
        value: of the shape of ``codes``.
        group_size: columns a group, or -1.
    """
    candidates = [zero_point]
    if zero_point is None:
        like = torch.ones_like(scale, dtype=torch.uint8)
        candidates = [like * IntGrid(bits, group_size).midpoint for bits in BITS]
    for candidate in candidates:
        assert candidate is not None
        tensors = {"packed": codes, "scale": scale, "zero_point": candidate}
        weight = QuantizedWeight(IntGrid(8, group_size), tensors, tuple(codes.shape))
        if torch.equal(weight.dequantize(), value):
            return candidate
    return None
