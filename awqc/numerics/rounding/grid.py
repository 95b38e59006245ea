"""The values that codes can stand for: scales and zero points, laid out by column."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from awqc.numerics.qparams import Granularity


@dataclass
class Grid:
    """Scales and zero points of a matrix, group by group.

    A weight is ``step * scale`` with an integer step (code less zero point) in
    ``[low, high]``.

    Attributes:
        scale: float32 ``(groups, rows)``, values that ``dtype`` can hold.
        zero_point: float32 ``(groups, rows)``, integers.
        granularity: bits, group size and symmetry.
        width: columns a group.
        dtype: of the stored scales.
    """

    scale: Tensor
    zero_point: Tensor
    granularity: Granularity
    width: int
    dtype: torch.dtype

    @classmethod
    def of(
        cls,
        scale: Tensor,
        zero_point: Tensor,
        granularity: Granularity,
        columns: int,
        dtype: torch.dtype,
    ) -> Grid:
        """From scale and zero point ``(rows, groups)`` of a matrix with ``columns``."""
        width = granularity.width(columns)
        return cls(
            scale.T.contiguous(), zero_point.T.contiguous(), granularity, width, dtype
        )

    def of_group(self, group: int) -> tuple[Tensor, Tensor, Tensor]:
        """Scale, lowest and highest step of a group, each ``(rows,)``."""
        zero = self.zero_point[group]
        return self.scale[group], -zero, self.granularity.quant_max - zero

    def of_column(self, column: int) -> tuple[Tensor, Tensor, Tensor]:
        """The same for the group of a column."""
        return self.of_group(column // self.width)

    def columns_scale(self, columns: int) -> Tensor:
        """The scale of every weight: ``(columns, rows)``."""
        return self.scale.repeat_interleave(self.width, dim=0)[:columns]
