"""``Q4_K`` of GGUF: super-blocks of 256 weights, eight blocks of 32 with 4 bits a weight.

A block has a scale and a minimum of 6 bits each, a super-block two float16 factors
(`awqc.numerics.formats.super_blocks`). Codes and 6-bit scales lie as in the file.
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
from awqc.numerics.formats.super_blocks import SUPER, WithMinima
from awqc.numerics.grid import Grid

BLOCK = 32
BLOCKS = SUPER // BLOCK
MOST = 63
"""Of a 6-bit scale or minimum."""
SCALE_BYTES = 12


@lazily()
def dequantize_q4_k(
    packed: Tensor, block_scales: Tensor, d: Tensor, dmin: Tensor, shape: list[int]
) -> Tensor:
    """The weight in ``shape``, in the dtype of ``d``; computed in float32.

    Args:
        packed: uint8 ``(rows, columns / 2)``: for each two blocks 32 bytes, the first in the
            lower four bits.
        block_scales: uint8 ``(rows, columns / 256 * 12)``, see `pack_scales`.
        d: float ``(rows, columns / 256)``; ``dmin`` likewise.
        shape: shape of the weight; its elements in order are the matrix ``(rows, columns)``.
    """
    return values_of(unpack_lanes(packed, 2, BLOCK), block_scales, d, dmin, shape)


def values_of(
    codes: Tensor, block_scales: Tensor, d: Tensor, dmin: Tensor, shape: list[int]
) -> Tensor:
    """What ``codes`` ``(rows, columns)`` stand for, in ``shape``; the others as in the file."""
    scales, minima = unpack_scales(block_scales)
    scale = d.float().unsqueeze(-1) * scales.float()
    low = dmin.float().unsqueeze(-1) * minima.float()
    blocks = codes.reshape(codes.shape[0], -1, BLOCKS, BLOCK).float()
    return (blocks * scale.unsqueeze(-1) - low.unsqueeze(-1)).reshape(shape).to(d.dtype)


@dataclass(frozen=True)
class Q4K(WithMinima):
    """GGUF's ``Q4_K``, for columns that 256 divides."""

    name: ClassVar[str] = "Q4_K"
    roles: ClassVar[tuple[str, ...]] = ("packed", "block_scales", "d", "dmin")
    order: ClassVar[tuple[str, ...]] = ("d", "dmin", "block_scales", "packed")
    operation = staticmethod(dequantize_q4_k)
    bits: ClassVar[int] = 4
    second: ClassVar[str] = "Q5_0"
    block: ClassVar[int] = BLOCK
    most: ClassVar[int] = MOST

    def layout(self, rows: int, columns: int) -> dict[str, tuple[int, ...]]:
        """As `WeightFormat.layout`."""
        supers = columns // SUPER
        return {
            "packed": (rows, columns // 2),
            "block_scales": (rows, supers * SCALE_BYTES),
            "d": (rows, supers),
            "dmin": (rows, supers),
        }

    def encode(self, steps: Tensor, grid: Grid) -> Tensors:
        """As `WeightFormat.encode`."""
        scales, minima, d, dmin = self._parts(grid)
        return {
            "packed": pack_lanes(steps, 2, BLOCK),
            "block_scales": pack_scales(scales, minima),
            "d": d,
            "dmin": dmin,
        }

    def codes(self, tensors: Mapping[str, Tensor], columns: int) -> Tensor:
        """In ``[0, 15]``."""
        return unpack_lanes(tensors["packed"], 2, BLOCK)


def pack_scales(scales: Tensor, minima: Tensor) -> Tensor:
    """6-bit scales and minima ``(rows, blocks)`` as uint8 ``(rows, blocks / 8 * 12)``.

    Four bytes with the first four scales, four with the first four minima, both with the upper
    two bits of the other four above them, and four with the lower bits of these, scales first.
    """
    sc, m = (value.reshape(len(value), -1, 2, BLOCKS // 2) for value in (scales, minima))
    first = [part[:, :, 0] | part[:, :, 1] >> 4 << 6 for part in (sc, m)]
    last = sc[:, :, 1] & 0x0F | (m[:, :, 1] & 0x0F) << 4
    return torch.cat([*first, last], dim=-1).flatten(1).contiguous()


def unpack_scales(block_scales: Tensor) -> tuple[Tensor, Tensor]:
    """Undo `pack_scales`: uint8 ``(rows, super-blocks, 8)`` each."""
    sc, m, last = block_scales.reshape(block_scales.shape[0], -1, 3, BLOCKS // 2).unbind(2)
    scales = torch.cat([sc & MOST, last & 0x0F | sc >> 6 << 4], dim=-1)
    minima = torch.cat([m & MOST, last >> 4 | m >> 6 << 4], dim=-1)
    return scales, minima
