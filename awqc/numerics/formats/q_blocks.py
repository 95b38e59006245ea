"""``Q4_0``, ``Q4_1``, ``Q5_0`` and ``Q5_1`` of GGUF: blocks of 32 with one or two float16 factors.

    Q4_1, Q5_1:  value = d * code + m
    Q4_0, Q5_0:  value = d * (code - 2^(bits - 1))

``Q8_0`` is whole numbers in groups of 32 with a scale and no zero point: `IntGrid`. So are those of
``Q4_0`` whose factors are positive.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from awqc.numerics.formats.base import Tensors
from awqc.numerics.formats.ggml import LARGEST, GgmlFormat, in_half, one_more
from awqc.numerics.formats.lanes import pack_lanes, unpack_lanes
from awqc.numerics.formats.lazy import lazily
from awqc.numerics.grid import Grid

BLOCK = 32
MIDDLE = 16


@lazily()
def dequantize_q4_1(packed: Tensor, d: Tensor, m: Tensor, shape: list[int]) -> Tensor:
    """The weight in ``shape``, in the dtype of ``d``; computed in float32.

    Args:
        packed: uint8 ``(rows, columns / 2)``: for each block 16 bytes, its first 16 codes in the
            lower four bits.
        d: float ``(rows, columns / 32)``; ``m`` likewise.
        shape: shape of the weight; its elements in order are the matrix ``(rows, columns)``.
    """
    codes = unpack_lanes(packed, 2, 16).reshape(packed.shape[0], -1, BLOCK).float()
    return (codes * d.float().unsqueeze(-1) + m.float().unsqueeze(-1)).reshape(shape).to(d.dtype)


@lazily()
def dequantize_q5_1(packed: Tensor, high: Tensor, d: Tensor, m: Tensor, shape: list[int]) -> Tensor:
    """As `dequantize_q4_1`, with fifth bits in ``high``: uint8 ``(rows, columns / 8)``."""
    codes = _five_bits(packed, high).reshape(packed.shape[0], -1, BLOCK).float()
    return (codes * d.float().unsqueeze(-1) + m.float().unsqueeze(-1)).reshape(shape).to(d.dtype)


@lazily()
def dequantize_q4_0(packed: Tensor, d: Tensor, shape: list[int]) -> Tensor:
    """As `dequantize_q4_1`, with zero in the middle."""
    codes = unpack_lanes(packed, 2, 16).reshape(packed.shape[0], -1, BLOCK).float() - 8
    return (codes * d.float().unsqueeze(-1)).reshape(shape).to(d.dtype)


@lazily()
def dequantize_q5_0(packed: Tensor, high: Tensor, d: Tensor, shape: list[int]) -> Tensor:
    """As `dequantize_q5_1`, with zero in the middle."""
    codes = _five_bits(packed, high).reshape(packed.shape[0], -1, BLOCK).float() - MIDDLE
    return (codes * d.float().unsqueeze(-1)).reshape(shape).to(d.dtype)


def _five_bits(packed: Tensor, high: Tensor) -> Tensor:
    return unpack_lanes(packed, 2, 16) | unpack_lanes(high, 8, 1) << 4


class Halves(Grid):
    """A grid whose scales float16 holds."""

    def snapped(self, scale: Tensor) -> Tensor:
        """As `Grid.snapped`."""
        return in_half(scale, self.dtype)


class _Plain(GgmlFormat):
    block: ClassVar[int] = BLOCK
    unit: ClassVar[int] = BLOCK

    def layout(self, rows: int, columns: int) -> dict[str, tuple[int, ...]]:
        """As `WeightFormat.layout`."""
        sizes = {"packed": columns // 2, "high": columns // 8}
        return {role: (rows, sizes.get(role, columns // BLOCK)) for role in self.roles}

    def codes(self, tensors: Mapping[str, Tensor], columns: int) -> Tensor:
        """In ``[0, 2^bits - 1]``."""
        if "high" in self.roles:
            return _five_bits(tensors["packed"], tensors["high"])
        return unpack_lanes(tensors["packed"], 2, 16)

    def _packed(self, codes: Tensor) -> Tensors:
        found = {"packed": pack_lanes(codes & 0x0F, 2, 16)}
        if "high" in self.roles:
            found["high"] = pack_lanes(codes >> 4, 8, 1)
        return found


class _Offset(_Plain):
    """A scale and the smallest value, which is zero or below it."""

    tunable: ClassVar[tuple[str, ...]] = ("d", "m")

    def positive(self, role: str) -> bool:
        """As `GgmlFormat.positive`."""
        return role == "d"

    def grid(self, low: Tensor, high: Tensor, dtype: torch.dtype) -> Grid:
        """The smallest value first; the scale then reaches from what it became to the top."""
        largest = torch.finfo(dtype).max
        low, high = low.float().clamp(max=0.0), high.float().clamp(min=0.0)
        shift = torch.where(low < 0, self.stored(low, dtype), 0.0)
        top = self.levels - 1
        # What the highest code stands for must still be finite in dtype.
        most = (largest - shift) / top * (1 - torch.finfo(torch.bfloat16).eps)
        scale = self.stored(torch.minimum(high / top - shift / top, most), dtype)
        return Halves(scale, torch.zeros_like(scale), torch.full_like(scale, top), shift, dtype)

    def encode(self, steps: Tensor, grid: Grid) -> Tensors:
        """As `WeightFormat.encode`."""
        assert grid.shift is not None
        return {**self._packed(steps.byte()), "d": grid.scale, "m": grid.shift}


@dataclass(frozen=True)
class Q41(_Offset):
    """GGUF's ``Q4_1``, for columns that 32 divides."""

    name: ClassVar[str] = "Q4_1"
    roles: ClassVar[tuple[str, ...]] = ("packed", "d", "m")
    order: ClassVar[tuple[str, ...]] = ("d", "m", "packed")
    operation = staticmethod(dequantize_q4_1)
    bits: ClassVar[int] = 4


@dataclass(frozen=True)
class Q51(_Offset):
    """GGUF's ``Q5_1``, for columns that 32 divides."""

    name: ClassVar[str] = "Q5_1"
    roles: ClassVar[tuple[str, ...]] = ("packed", "high", "d", "m")
    order: ClassVar[tuple[str, ...]] = ("d", "m", "high", "packed")
    operation = staticmethod(dequantize_q5_1)
    bits: ClassVar[int] = 5


class _Centred(_Plain):
    """A scale, which may be negative, and zero in the middle."""

    tunable: ClassVar[tuple[str, ...]] = ("d",)

    @property
    def two_ended(self) -> bool:
        """As `WeightFormat.two_ended`."""
        return False

    def positive(self, role: str) -> bool:
        """As `GgmlFormat.positive`."""
        return False

    def grid(self, low: Tensor, high: Tensor, dtype: torch.dtype) -> Grid:
        """The farther end, of either sign, gets ``-midpoint``; the other side has one step less."""
        most = LARGEST / self.midpoint
        scale = self.stored(one_more(low, high, self.midpoint).clamp(-most, most), dtype)
        end = torch.full_like(scale, float(self.midpoint))
        return Halves(scale, -end, end - 1, None, dtype)

    def encode(self, steps: Tensor, grid: Grid) -> Tensors:
        """As `WeightFormat.encode`."""
        return {**self._packed((steps + self.midpoint).byte()), "d": grid.scale}


@dataclass(frozen=True)
class Q40(_Centred):
    """GGUF's ``Q4_0``, for columns that 32 divides."""

    name: ClassVar[str] = "Q4_0"
    roles: ClassVar[tuple[str, ...]] = ("packed", "d")
    order: ClassVar[tuple[str, ...]] = ("d", "packed")
    operation = staticmethod(dequantize_q4_0)
    bits: ClassVar[int] = 4


@dataclass(frozen=True)
class Q50(_Centred):
    """GGUF's ``Q5_0``, for columns that 32 divides."""

    name: ClassVar[str] = "Q5_0"
    roles: ClassVar[tuple[str, ...]] = ("packed", "high", "d")
    order: ClassVar[tuple[str, ...]] = ("d", "high", "packed")
    operation = staticmethod(dequantize_q5_0)
    bits: ClassVar[int] = 5
