"""The range that each group's codes span: clipping the ends where that costs less."""

from __future__ import annotations

import torch
from torch import Tensor

from awqc.numerics.formats.base import WeightFormat, to_groups
from awqc.numerics.grid import Grid
from awqc.numerics.rounding.gram import group_blocks

SHRINKS = (0.9, 0.8, 0.7)
STEPS = (0.9, 0.95, 1.05)


def search_ranges(matrix: Tensor, gram: Tensor, form: WeightFormat, dtype: torch.dtype) -> Grid:
    """The grid ``(rows, groups)`` for ``matrix`` ``(rows, columns)``.

    A group's range is its minimum and maximum, shrunk together and then each end alone, as
    far as that lowers the loss of rounding to nearest, ``e^T G e`` with the group's own block
    ``G`` of ``gram`` ``(columns, columns)``. The full range is among the candidates.
    Where groups share a factor, a group is judged with its neighbours cut as it is.
    Source: clipping in AWQ, arXiv 2306.00978, which shrinks both ends alike.
    """
    grouped = to_groups(matrix, form)
    _, groups, width = grouped.shape
    search = _RangeSearch(grouped, group_blocks(gram, width, groups), form, dtype)
    whole = torch.ones_like(search.low)
    for shrink in SHRINKS:
        search.attempt(whole * shrink, whole * shrink)
    if form.two_ended:
        low, high = search.low, search.high
        for step in STEPS:
            search.attempt((low * step).clamp(max=1.0), high)
        low, high = search.low, search.high
        for step in STEPS:
            search.attempt(low, (high * step).clamp(max=1.0))
    return search.grid(search.low, search.high)


class _RangeSearch:
    """The best fractions of the minimum and the maximum that were tried, group by group."""

    def __init__(
        self, grouped: Tensor, blocks: Tensor, form: WeightFormat, dtype: torch.dtype
    ) -> None:
        self._form, self._dtype, self._blocks = form, dtype, blocks
        self._least, self._most = torch.aminmax(grouped, dim=-1)
        self._values = grouped.transpose(0, 1).contiguous()  # (groups, rows, width)
        self.low = self.high = torch.ones_like(self._least)
        self._best = self._loss(self.low, self.high)

    def grid(self, low: Tensor, high: Tensor) -> Grid:
        """Of ranges that are these fractions of the full ones."""
        least, most = self._least.clamp(max=0) * low, self._most.clamp(min=0) * high
        return self._form.grid(least, most, self._dtype)

    def attempt(self, low: Tensor, high: Tensor) -> None:
        """Keep these fractions where they are better."""
        loss = self._loss(low, high)
        better = loss < self._best
        self._best = torch.where(better, loss, self._best)
        self.low = torch.where(better, low, self.low)
        self.high = torch.where(better, high, self.high)

    def _loss(self, low: Tensor, high: Tensor) -> Tensor:
        """``e^T G e`` of every group: ``(rows, groups)``."""
        grid = self.grid(low, high).turned().spread()
        error = grid.value_(grid.nearest(self._values)).sub_(self._values)
        return ((error @ self._blocks) * error).sum(-1).T
