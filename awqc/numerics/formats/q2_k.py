"""``Q2_K`` of GGUF: super-blocks of 256 weights, sixteen blocks of 16 with 2 bits a weight.

A block has a scale and a minimum of 4 bits each, a super-block two float16 factors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from awqc.numerics.formats.base import Tensors
from awqc.numerics.formats.lanes import pack_lanes, unpack_lanes
from awqc.numerics.formats.lazy import lazily
from awqc.numerics.formats.super_blocks import SUPER, WithMinima
from awqc.numerics.grid import Grid

BLOCK = 16
BLOCKS = SUPER // BLOCK


@lazily()
def dequantize_q2_k(
    packed: Tensor, block_scales: Tensor, d: Tensor, dmin: Tensor, shape: list[int]
) -> Tensor:
    """The weight in ``shape``, in the dtype of ``d``; computed in float32.

    Args:
        packed: uint8 ``(rows, columns / 4)``: for each 128 codes 32 bytes, the first 32 of them in
            the lowest two bits.
        block_scales: uint8 ``(rows, columns / 16)``: the scale in the lower four bits, the minimum
            in the upper ones.
        d: float ``(rows, columns / 256)``; ``dmin`` likewise.
        shape: shape of the weight; its elements in order are the matrix ``(rows, columns)``.
    """
    both = block_scales.reshape(block_scales.shape[0], -1, BLOCKS)
    scale = d.float().unsqueeze(-1) * (both & 0x0F).float()
    low = dmin.float().unsqueeze(-1) * (both >> 4).float()
    codes = unpack_lanes(packed, 4, 32).reshape(packed.shape[0], -1, BLOCKS, BLOCK).float()
    return (codes * scale.unsqueeze(-1) - low.unsqueeze(-1)).reshape(shape).to(d.dtype)


@dataclass(frozen=True)
class Q2K(WithMinima):
    """GGUF's ``Q2_K``, for columns that 256 divides."""

    name: ClassVar[str] = "Q2_K"
    roles: ClassVar[tuple[str, ...]] = ("packed", "block_scales", "d", "dmin")
    order: ClassVar[tuple[str, ...]] = ("block_scales", "packed", "d", "dmin")
    operation = staticmethod(dequantize_q2_k)
    bits: ClassVar[int] = 2
    second: ClassVar[str] = "Q4_0"
    block: ClassVar[int] = BLOCK
    most: ClassVar[int] = 15

    def layout(self, rows: int, columns: int) -> dict[str, tuple[int, ...]]:
        """As `WeightFormat.layout`."""
        supers = columns // SUPER
        return {
            "packed": (rows, columns // 4),
            "block_scales": (rows, columns // BLOCK),
            "d": (rows, supers),
            "dmin": (rows, supers),
        }

    def encode(self, steps: Tensor, grid: Grid) -> Tensors:
        """As `WeightFormat.encode`."""
        scales, minima, d, dmin = self._parts(grid)
        return {
            "packed": pack_lanes(steps, 4, 32),
            "block_scales": scales | minima << 4,
            "d": d,
            "dmin": dmin,
        }

    def codes(self, tensors: Mapping[str, Tensor], columns: int) -> Tensor:
        """In ``[0, 3]``."""
        return unpack_lanes(tensors["packed"], 4, 32)
