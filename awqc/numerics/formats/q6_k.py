"""``Q6_K`` of GGUF: super-blocks of 256 weights, sixteen blocks of 16 with 6 bits a weight.

A block has a scale of 8 bits, a super-block one float16 factor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from awqc.numerics.formats.base import Tensors
from awqc.numerics.formats.lanes import pack_lanes, unpack_lanes
from awqc.numerics.formats.lazy import lazily
from awqc.numerics.formats.super_blocks import SUPER, Centred
from awqc.numerics.grid import Grid

BLOCK = 16
BLOCKS = SUPER // BLOCK
MIDDLE = 32


@lazily()
def dequantize_q6_k(
    packed: Tensor, high: Tensor, block_scales: Tensor, d: Tensor, shape: list[int]
) -> Tensor:
    """The weight in ``shape``, in the dtype of ``d``; computed in float32.

    Args:
        packed: uint8 ``(rows, columns / 2)``: the lower four bits of codes, for each 128 of them 64
            bytes, the first 64 in the lower four bits.
        high: uint8 ``(rows, columns / 4)``: their upper two bits, for each 128 of them 32 bytes,
            the first 32 in the lowest two bits.
        block_scales: int8 ``(rows, columns / 16)``.
        d: float ``(rows, columns / 256)``.
        shape: shape of the weight; its elements in order are the matrix ``(rows, columns)``.
    """
    scales = block_scales.reshape(block_scales.shape[0], -1, BLOCKS)
    scale = d.float().unsqueeze(-1) * scales.float()
    codes = _codes(packed, high).reshape(packed.shape[0], -1, BLOCKS, BLOCK).float() - MIDDLE
    return (codes * scale.unsqueeze(-1)).reshape(shape).to(d.dtype)


def _codes(packed: Tensor, high: Tensor) -> Tensor:
    return unpack_lanes(packed, 2, 64) | unpack_lanes(high, 4, 32) << 4


@dataclass(frozen=True)
class Q6K(Centred):
    """GGUF's ``Q6_K``, for columns that 256 divides."""

    name: ClassVar[str] = "Q6_K"
    roles: ClassVar[tuple[str, ...]] = ("packed", "high", "block_scales", "d")
    order: ClassVar[tuple[str, ...]] = ("packed", "high", "block_scales", "d")
    operation = staticmethod(dequantize_q6_k)
    signed: ClassVar[tuple[str, ...]] = ("block_scales",)
    bits: ClassVar[int] = 6
    second: ClassVar[str] = "Q8_0"
    block: ClassVar[int] = BLOCK
    most: ClassVar[int] = 127

    def layout(self, rows: int, columns: int) -> dict[str, tuple[int, ...]]:
        """As `WeightFormat.layout`."""
        return {
            "packed": (rows, columns // 2),
            "high": (rows, columns // 4),
            "block_scales": (rows, columns // BLOCK),
            "d": (rows, columns // SUPER),
        }

    def encode(self, steps: Tensor, grid: Grid) -> Tensors:
        """As `WeightFormat.encode`."""
        scales, d = self._parts(grid)
        codes = (steps + MIDDLE).byte()
        return {
            "packed": pack_lanes(codes & 0x0F, 2, 64),
            "high": pack_lanes(codes >> 4, 4, 32),
            "block_scales": scales.to(torch.int8),
            "d": d,
        }

    def codes(self, tensors: Mapping[str, Tensor], columns: int) -> Tensor:
        """In ``[0, 63]``."""
        return _codes(tensors["packed"], tensors["high"])
