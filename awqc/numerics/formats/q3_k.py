"""``Q3_K`` of GGUF: super-blocks of 256 weights, sixteen blocks of 16 with 3 bits a weight.

A block has a scale of 6 bits, a super-block one float16 factor.
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
MIDDLE = 4
SCALE_BYTES = 12
ZERO = 32
"""What is stored of a scale of zero."""


@lazily()
def dequantize_q3_k(
    packed: Tensor, high: Tensor, block_scales: Tensor, d: Tensor, shape: list[int]
) -> Tensor:
    """The weight in ``shape``, in the dtype of ``d``; computed in float32.

    Args:
        packed: uint8 ``(rows, columns / 4)``: the lower two bits of codes, for each 128 of them 32
            bytes, the first 32 in the lowest two bits.
        high: uint8 ``(rows, columns / 8)``: their third bits, 32 bytes a super-block, those of the
            first 32 codes in the lowest bit.
        block_scales: uint8 ``(rows, columns / 256 * 12)``, see `pack_scales`.
        d: float ``(rows, columns / 256)``.
        shape: shape of the weight; its elements in order are the matrix ``(rows, columns)``.
    """
    scale = d.float().unsqueeze(-1) * (unpack_scales(block_scales).float() - ZERO)
    codes = _codes(packed, high).reshape(packed.shape[0], -1, BLOCKS, BLOCK).float() - MIDDLE
    return (codes * scale.unsqueeze(-1)).reshape(shape).to(d.dtype)


def _codes(packed: Tensor, high: Tensor) -> Tensor:
    return unpack_lanes(packed, 4, 32) | unpack_lanes(high, 8, 32) << 2


def pack_scales(scales: Tensor) -> Tensor:
    """6-bit scales ``(rows, blocks)`` as uint8 ``(rows, blocks / 16 * 12)``.

    Eight bytes with the lower four bits, the last eight scales in the upper half of them; four
    with the upper two bits, each fourth scale in the same byte.
    """
    parts = scales.to(torch.uint8).reshape(len(scales), -1, BLOCKS)
    low = pack_lanes((parts & 0x0F).flatten(0, 1), 2, 8)
    high = pack_lanes((parts >> 4).flatten(0, 1), 4, 4)
    return torch.cat([low, high], dim=-1).reshape(len(scales), -1)


def unpack_scales(block_scales: Tensor) -> Tensor:
    """Undo `pack_scales`: uint8 ``(rows, super-blocks, 16)``."""
    parts = block_scales.reshape(-1, SCALE_BYTES)
    scales = unpack_lanes(parts[:, :8], 2, 8) | unpack_lanes(parts[:, 8:], 4, 4) << 4
    return scales.reshape(block_scales.shape[0], -1, BLOCKS)


@dataclass(frozen=True)
class Q3K(Centred):
    """GGUF's ``Q3_K``, for columns that 256 divides."""

    name: ClassVar[str] = "Q3_K"
    roles: ClassVar[tuple[str, ...]] = ("packed", "high", "block_scales", "d")
    order: ClassVar[tuple[str, ...]] = ("high", "packed", "block_scales", "d")
    operation = staticmethod(dequantize_q3_k)
    bits: ClassVar[int] = 3
    second: ClassVar[str] = "Q4_0"
    block: ClassVar[int] = BLOCK
    most: ClassVar[int] = 31

    def layout(self, rows: int, columns: int) -> dict[str, tuple[int, ...]]:
        """As `WeightFormat.layout`."""
        return {
            "packed": (rows, columns // 4),
            "high": (rows, columns // 8),
            "block_scales": (rows, columns // SUPER * SCALE_BYTES),
            "d": (rows, columns // SUPER),
        }

    def encode(self, steps: Tensor, grid: Grid) -> Tensors:
        """As `WeightFormat.encode`."""
        scales, d = self._parts(grid)
        codes = (steps + MIDDLE).byte()
        return {
            "packed": pack_lanes(codes & 3, 4, 32),
            "high": pack_lanes(codes >> 2, 8, 32),
            "block_scales": pack_scales(scales + ZERO),
            "d": d,
        }

    def codes(self, tensors: Mapping[str, Tensor], columns: int) -> Tensor:
        """In ``[0, 7]``."""
        return _codes(tensors["packed"], tensors["high"])
