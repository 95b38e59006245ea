"""Super-blocks of ggml: blocks whose scales are small whole numbers, with factors for 256 weights.

With minima, a block has a scale ``sc`` and a minimum ``m``, a super-block two factors::

    value = d * sc * code - dmin * m        code in [0, 2^bits - 1]

Centred ones have no minimum::

    value = d * sc * (code - 2^(bits - 1))
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from awqc.numerics.formats.ggml import GgmlFormat, one_more
from awqc.numerics.grid import Grid

SUPER = 256


@dataclass(frozen=True)
class Blocks(Grid):
    """A grid whose scales are multiples of ``d``, up to ``most`` of them.

    ``d`` has an entry for each block, as all the others.
    """

    d: Tensor
    most: int

    def snapped(self, scale: Tensor) -> Tensor:
        """The nearest multiples that can be stored; at least one, since zero divides."""
        steps = scale / self.d
        return self.d * torch.copysign(steps.abs().round_().clamp_(1, self.most), steps)


@dataclass(frozen=True)
class ShiftedBlocks(Blocks):
    """The same with shifts that are multiples of ``dmin``."""

    dmin: Tensor


class SuperBlocks(GgmlFormat):
    """Super-blocks of 256.

    Attributes:
        most: the largest scale of a block.
    """

    unit: ClassVar[int] = SUPER
    most: ClassVar[int]

    @property
    def count(self) -> int:
        """Blocks in a super-block."""
        return self.unit // self.block

    def _factor(self, value: Tensor, dtype: torch.dtype) -> Tensor:
        """The factor whose `most`-fold reaches the largest of each super-block, for each block."""
        peaks = value.unflatten(-1, (-1, self.count)).amax(-1)
        return self.stored(peaks / self.most, dtype).repeat_interleave(self.count, dim=-1)

    def _of_super(self, factor: Tensor) -> Tensor:
        """Undo the last step of `_factor`."""
        return factor[:, :: self.count].contiguous()


class WithMinima(SuperBlocks):
    """A scale and a minimum a block.

    Zero is a value of a block only by chance. Steps reach some ``most * 65280``: weights beyond
    that are cut off.
    """

    tunable: ClassVar[tuple[str, ...]] = ("d", "dmin")

    def grid(self, low: Tensor, high: Tensor, dtype: torch.dtype) -> Grid:
        """Minima first; scales then reach from what these became to the top."""
        largest = torch.finfo(dtype).max
        low, high = low.float().clamp(max=0.0), high.float().clamp(min=0.0)
        dmin = self._factor(-low, dtype)
        minimum = torch.minimum((-low / dmin).round_(), (largest / dmin).floor_())
        shift = -(dmin * minimum.clamp_(0, self.most))
        scale = (high - shift) / (self.levels - 1)
        d = self._factor(scale, dtype)
        # What the highest code stands for must still be finite in dtype.
        finite = ((largest - shift) / (self.levels - 1) / d).floor_()
        steps = torch.minimum((scale / d).round_(), finite).clamp_(1, self.most)
        top = torch.full_like(d, self.levels - 1.0)
        return ShiftedBlocks(
            d * steps, torch.zeros_like(d), top, shift, dtype, d, self.most, dmin
        )  # fmt: skip

    def _parts(self, grid: Grid) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Scales and minima of blocks, uint8, and the two factors of super-blocks."""
        assert isinstance(grid, ShiftedBlocks)
        assert grid.shift is not None
        scales = (grid.scale / grid.d).round().to(torch.uint8)
        minima = (-grid.shift / grid.dmin).round().to(torch.uint8)
        return scales, minima, self._of_super(grid.d), self._of_super(grid.dmin)


class Centred(SuperBlocks):
    """A scale a block, which may be negative; the middle code is zero."""

    tunable: ClassVar[tuple[str, ...]] = ("d",)

    @property
    def two_ended(self) -> bool:
        """As `WeightFormat.two_ended`."""
        return False

    def grid(self, low: Tensor, high: Tensor, dtype: torch.dtype) -> Grid:
        """The farther end, of either sign, gets ``-midpoint``; the other side has one step less."""
        scale = one_more(low, high, self.midpoint)
        d = self._factor(scale.abs(), dtype)
        finite = (torch.finfo(dtype).max / self.midpoint / d).floor_()
        steps = torch.minimum((scale.abs() / d).round_(), finite).clamp_(1, self.most)
        end = torch.full_like(d, float(self.midpoint))
        return Blocks(
            torch.copysign(d * steps, scale), -end, end - 1, None, dtype, d, self.most
        )  # fmt: skip

    def _parts(self, grid: Grid) -> tuple[Tensor, Tensor]:
        """Scales of blocks, as whole numbers in float32, and the factor of super-blocks."""
        assert isinstance(grid, Blocks)
        return (grid.scale / grid.d).round(), self._of_super(grid.d)
