"""``Q4_K`` of GGUF: super-blocks of 256 weights, eight blocks of 32 with 4 bits a weight.

A block has a scale ``sc`` and a minimum ``m`` of 6 bits each, a super-block two float16 factors::

    value = d * sc * code - dmin * m        code in [0, 15], sc and m in [0, 63]

Facts of the layout: ``ggml-quants.h`` and ``gguf-py`` of llama.cpp, which computes this in float32.
The factors are kept in the dtype that the model computes in, with values that float16 holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from awqc.numerics.formats.base import QuantizedWeight, Tensors, WeightFormat
from awqc.numerics.formats.lazy import lazily
from awqc.numerics.grid import Grid

SUPER = 256
BLOCK = 32
BLOCKS = SUPER // BLOCK
MOST = 63
"""Of a 6-bit scale or minimum."""
SCALE_BYTES = 12
LEVELS = 16
SMALLEST, LARGEST = 2.0**-24, 65280.0
"""Factors that float16 holds, and the largest of them that bfloat16 holds as well."""


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
    scales, minima = unpack_scales(block_scales)
    scale = d.float().unsqueeze(-1) * scales.float()
    low = dmin.float().unsqueeze(-1) * minima.float()
    codes = unpack_codes(packed).float()
    return (codes * scale.unsqueeze(-1) - low.unsqueeze(-1)).reshape(shape).to(d.dtype)


@dataclass(frozen=True)
class Blocks(Grid):
    """A grid whose scales are multiples of ``d``, and whose shifts are multiples of ``dmin``.

    Both have an entry for each block, as all the others.
    """

    d: Tensor
    dmin: Tensor

    def snapped(self, scale: Tensor) -> Tensor:
        """The nearest multiples that 6 bits hold; at least one, since zero divides."""
        return self.d * (scale / self.d).round_().clamp_(1, MOST)


@dataclass(frozen=True)
class Q4K(WeightFormat):
    """GGUF's ``Q4_K``, for columns that 256 divides.

    Zero is a value of a block only by chance. Steps reach ``15 * 63 * 65280``, some 6e7: weights
    beyond that are cut off.
    """

    name: ClassVar[str] = "Q4_K"
    roles: ClassVar[tuple[str, ...]] = ("packed", "block_scales", "d", "dmin")
    tunable: ClassVar[tuple[str, ...]] = ("d", "dmin")
    operation = staticmethod(dequantize_q4_k)

    def __str__(self) -> str:
        return self.name

    @property
    def levels(self) -> int:
        """As `WeightFormat.levels`."""
        return LEVELS

    def describe(self) -> dict[str, Any]:
        """As `WeightFormat.describe`."""
        return {"bits": 4, "group_size": BLOCK, "format": self.name}

    def why_not(self, columns: int) -> str | None:
        """As `WeightFormat.why_not`."""
        if columns and columns % SUPER == 0:
            return None
        return f"Q4_K has super-blocks of {SUPER}, and {columns} columns are no multiple of that"

    def width(self, columns: int) -> int:
        """As `WeightFormat.width`."""
        return BLOCK

    def layout(self, rows: int, columns: int) -> dict[str, tuple[int, ...]]:
        """As `WeightFormat.layout`."""
        supers = columns // SUPER
        return {
            "packed": (rows, columns // 2),
            "block_scales": (rows, supers * SCALE_BYTES),
            "d": (rows, supers),
            "dmin": (rows, supers),
        }

    def nbytes(self, rows: int, columns: int, dtype: torch.dtype) -> int:
        """144 bytes a super-block where factors take two, as in a GGUF file."""
        return rows * (columns // SUPER) * (SUPER // 2 + SCALE_BYTES + 2 * dtype.itemsize)

    def stored(self, value: Tensor, dtype: torch.dtype) -> Tensor:
        """What float16 and ``dtype`` both hold: bfloat16 has fewer digits, so it comes last."""
        return value.clamp(SMALLEST, LARGEST).to(torch.float16).to(dtype).float()

    def grid(self, low: Tensor, high: Tensor, dtype: torch.dtype) -> Grid:
        """Minima first; scales then reach from what these became to the top."""
        largest = torch.finfo(dtype).max
        low, high = low.float().clamp(max=0.0), high.float().clamp(min=0.0)
        dmin = self._factor(-low, dtype)
        minimum = torch.minimum((-low / dmin).round_(), (largest / dmin).floor_()).clamp_(0, MOST)
        shift = -(dmin * minimum)
        scale = (high - shift) / (LEVELS - 1)
        d = self._factor(scale, dtype)
        # What the highest code stands for must still be finite in dtype.
        finite = ((largest - shift) / (LEVELS - 1) / d).floor_()
        steps = torch.minimum((scale / d).round_(), finite).clamp_(1, MOST)
        top = torch.full_like(d, LEVELS - 1.0)
        return Blocks(d * steps, torch.zeros_like(d), top, shift, dtype, d, dmin)

    def _factor(self, value: Tensor, dtype: torch.dtype) -> Tensor:
        """The factor whose 63-fold reaches the largest of each super-block, for each block."""
        peaks = value.unflatten(-1, (-1, BLOCKS)).amax(-1)
        return self.stored(peaks / MOST, dtype).repeat_interleave(BLOCKS, dim=-1)

    def encode(self, steps: Tensor, grid: Grid) -> Tensors:
        """As `WeightFormat.encode`."""
        assert isinstance(grid, Blocks)
        assert grid.shift is not None
        scales = (grid.scale / grid.d).round().to(torch.uint8)
        minima = (-grid.shift / grid.dmin).round().to(torch.uint8)
        return {
            "packed": pack_codes(steps.to(torch.uint8)),
            "block_scales": pack_scales(scales, minima),
            "d": grid.d[:, ::BLOCKS].contiguous(),
            "dmin": grid.dmin[:, ::BLOCKS].contiguous(),
        }

    def codes(self, tensors: Mapping[str, Tensor], columns: int) -> Tensor:
        """In ``[0, 15]``."""
        return unpack_codes(tensors["packed"]).flatten(1)

    def fault(self, tensors: Mapping[str, Tensor]) -> str | None:
        """As `WeightFormat.fault`."""
        for role in self.tunable:
            factor = tensors[role]
            if not bool(torch.isfinite(factor).all()) or bool((factor <= 0).any()):
                return f"a factor {role} that is not positive"
        return None


def pack_codes(codes: Tensor) -> Tensor:
    """Codes ``(rows, columns)`` as uint8 ``(rows, columns / 2)``, two blocks in 32 bytes."""
    pairs = codes.reshape(len(codes), -1, 2, BLOCK)
    return (pairs[:, :, 0] | pairs[:, :, 1] << 4).flatten(1).contiguous()


def unpack_codes(packed: Tensor) -> Tensor:
    """Undo `pack_codes`: uint8 ``(rows, super-blocks, 8, 32)``."""
    pairs = packed.reshape(packed.shape[0], -1, BLOCKS // 2, BLOCK)
    codes = torch.stack([pairs & 0x0F, pairs >> 4], dim=3)
    return codes.reshape(packed.shape[0], -1, BLOCKS, BLOCK)


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


def gguf_blocks(weight: QuantizedWeight) -> Tensor:
    """The bytes of a GGUF file, row by row: uint8 ``(rows, columns / 256 * 144)``."""
    tensors, rows = weight.tensors, weight.rows
    halves = torch.stack([tensors["d"], tensors["dmin"]], dim=-1).to(torch.float16)
    parts = [
        halves.view(torch.uint8),
        tensors["block_scales"].reshape(rows, -1, SCALE_BYTES),
        tensors["packed"].reshape(rows, -1, SUPER // 2),
    ]
    return torch.cat(parts, dim=-1).flatten(1)
