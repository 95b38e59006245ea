"""Each column of an output by itself: one place of its last axis, over all rows of all batches."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

COLUMN_FLOOR = 0.02
"""Share of the output's variation that is added to a column's own, see `awqc.verify.gap`."""

FEWEST_ROWS = 8
"""Rows below which a column says little of how it varies."""

MOST_COLUMNS = 2**20
"""Of a wider output the columns are not told apart."""


@dataclass
class Columns:
    """Sums for each column; all tensors that come in are float64 ``(rows, columns)``."""

    _sums: dict[str, Tensor] = field(default_factory=dict)
    _pivot: Tensor | None = None

    def add(
        self, difference: Tensor, moved: Tensor, reference: Tensor, valid: Tensor | None
    ) -> None:
        """Take in rows; what is not ``valid`` is zero in all the others (None: all is).

        ``moved`` is the reference less some number.
        """
        if not 1 < moved.shape[-1] <= MOST_COLUMNS:
            return
        if self._pivot is None:
            self._pivot = moved[0].clone()
        if self._pivot.shape[0] != moved.shape[-1]:
            self._pivot, self._sums = moved[0].clone(), {}  # an axis that varies has no columns
        near = moved - self._pivot
        if valid is not None:
            near = torch.where(valid, near, 0)
        count = torch.tensor(float(len(near))) if valid is None else valid.double().sum(0)
        fresh = {
            "noise": difference.square().sum(0), "sum": near.sum(0), "square": near.square().sum(0),
            "size": reference.square().sum(0), "count": count.double(),
        }  # fmt: skip
        for name, values in fresh.items():
            self._sums[name] = self._sums.get(name, 0.0) + values

    def worst(self, variation: float, rounding: float) -> float | None:
        """The largest measure; ``rounding`` is relative to a column's magnitude.

        None where there are too few rows, or no columns.
        """
        if not self._sums or float(self._sums["count"].max()) < FEWEST_ROWS:
            return None
        count = self._sums["count"].clamp(min=1)
        noise, size = ((self._sums[name] / count).sqrt() for name in ("noise", "size"))
        mean = self._sums["sum"] / count
        varied = (self._sums["square"] / count - mean.square()).clamp(min=0).sqrt()
        beyond = (noise - rounding * size).clamp(min=0)
        measures = beyond / (varied + COLUMN_FLOOR * variation)
        return float(torch.where(beyond == 0, 0.0, measures).max())
