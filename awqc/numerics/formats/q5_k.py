"""``Q5_K`` of GGUF: as ``Q4_K`` with a fifth bit a weight, which lies apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from awqc.numerics.formats.base import Tensors
from awqc.numerics.formats.lanes import pack_lanes, unpack_lanes
from awqc.numerics.formats.lazy import lazily
from awqc.numerics.formats.q4_k import BLOCK, Q4K, values_of
from awqc.numerics.grid import Grid


@lazily()
def dequantize_q5_k(
    packed: Tensor, high: Tensor, block_scales: Tensor, d: Tensor, dmin: Tensor, shape: list[int]
) -> Tensor:
    """The weight in ``shape``, in the dtype of ``d``; computed in float32.

    Args:
        packed: uint8 ``(rows, columns / 2)``: the lower four bits of codes, as in ``Q4_K``.
        high: uint8 ``(rows, columns / 8)``: their fifth bits, 32 bytes a super-block, those of the
            first block in the lowest bit.
        block_scales: uint8 ``(rows, columns / 256 * 12)``, as in ``Q4_K``.
        d: float ``(rows, columns / 256)``; ``dmin`` likewise.
        shape: shape of the weight; its elements in order are the matrix ``(rows, columns)``.
    """
    return values_of(_codes(packed, high), block_scales, d, dmin, shape)


def _codes(packed: Tensor, high: Tensor) -> Tensor:
    return unpack_lanes(packed, 2, BLOCK) | unpack_lanes(high, 8, BLOCK) << 4


@dataclass(frozen=True)
class Q5K(Q4K):
    """GGUF's ``Q5_K``, for columns that 256 divides."""

    name: ClassVar[str] = "Q5_K"
    roles: ClassVar[tuple[str, ...]] = ("packed", "high", "block_scales", "d", "dmin")
    order: ClassVar[tuple[str, ...]] = ("d", "dmin", "block_scales", "high", "packed")
    operation = staticmethod(dequantize_q5_k)
    bits: ClassVar[int] = 5
    second: ClassVar[str] = "Q5_1"

    def layout(self, rows: int, columns: int) -> dict[str, tuple[int, ...]]:
        """As `WeightFormat.layout`."""
        return {**super().layout(rows, columns), "high": (rows, columns // 8)}

    def encode(self, steps: Tensor, grid: Grid) -> Tensors:
        """As `WeightFormat.encode`."""
        codes = steps.byte()
        return {**super().encode(codes & 0x0F, grid), "high": pack_lanes(codes >> 4, 8, BLOCK)}

    def codes(self, tensors: Mapping[str, Tensor], columns: int) -> Tensor:
        """In ``[0, 31]``."""
        return _codes(tensors["packed"], tensors["high"])
