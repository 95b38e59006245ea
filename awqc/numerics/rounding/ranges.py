"""The range that each group's codes span: clipping the ends where that costs less."""

from __future__ import annotations

import torch
from torch import Tensor

from awqc.numerics.formats.base import WeightFormat, to_groups
from awqc.numerics.grid import Grid
from awqc.numerics.quantizing import rows_at_once
from awqc.numerics.rounding.gram import group_blocks

SHRINKS = (0.9, 0.8, 0.7)
GROWTHS = (1.06, 1.12)
"""Of ranges whose farther end alone is sure to be reached."""
STEPS = (0.9, 0.95, 1.05)
MOST = 1.5
"""Times the whole range, that a fitted one may be."""
REFITS = 3
"""Ranges that are fitted to the codes of the best ones so far."""


def search_ranges(matrix: Tensor, gram: Tensor, form: WeightFormat, dtype: torch.dtype) -> Grid:
    """The grid ``(rows, groups)`` for ``matrix`` ``(rows, columns)``.

    A group's range is its minimum and maximum, shrunk together and then each end alone, as
    far as that lowers the loss of rounding to nearest, ``e^T G e`` with the group's own block
    ``G`` of ``gram`` ``(columns, columns)``. The full range is among the candidates.
    Where groups share a factor, a group is judged with its neighbours cut as it is. Rows do not
    depend on each other, and a few at a time stay in the processor's cache.
    Source: clipping in AWQ, arXiv 2306.00978, which shrinks both ends alike.
    """
    width = form.width(matrix.shape[1])
    return _search(matrix, group_blocks(gram, width, -(-matrix.shape[1] // width)), form, dtype)


def least_error(matrix: Tensor, form: WeightFormat, dtype: torch.dtype) -> tuple[Grid, Tensor]:
    """The same where nothing is known of what ``matrix`` is multiplied with; as `whole_range`."""
    whole = matrix.float()
    columns, width = whole.shape[1], form.width(whole.shape[1])
    alike = whole.new_zeros(-(-columns // width) * width)
    alike[:columns] = 1  # what fills the last group up counts for nothing
    return _search(whole, alike.view(-1, 1, width), form, dtype), to_groups(whole, form)


def _search(matrix: Tensor, blocks: Tensor, form: WeightFormat, dtype: torch.dtype) -> Grid:
    """The grid by ``blocks``, those of `_RangeSearch`."""
    ends = [
        _searched(to_groups(rows, form), blocks, form, dtype)
        for rows in matrix.split(rows_at_once(matrix, matrix.device))
    ]
    least, most = map(torch.cat, zip(*ends, strict=True))
    return form.grid(least, most, dtype)


def _searched(
    grouped: Tensor, blocks: Tensor, form: WeightFormat, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """The ends of the best ranges of ``grouped`` ``(rows, groups, width)``."""
    search = _RangeSearch(grouped, blocks, form, dtype)
    whole = torch.ones_like(search.low)
    for shrink in SHRINKS if form.two_ended else (*SHRINKS, *GROWTHS):
        search.attempt(whole * shrink, whole * shrink)
    if form.two_ended:
        low, high = search.low, search.high
        for step in STEPS:
            search.attempt((low * step).clamp(max=1.0), high)
        low, high = search.low, search.high
        for step in STEPS:
            search.attempt(low, (high * step).clamp(max=1.0))
    for _ in range(REFITS):
        search.refit()
    return search.ends(search.low, search.high)


class _RangeSearch:
    """The best fractions of the minimum and the maximum that were tried, group by group.

    ``blocks`` of the loss are ``(groups, width, width)``, or their diagonals where all else in them
    is zero: ``(groups, 1, width)``.
    """

    def __init__(
        self, grouped: Tensor, blocks: Tensor, form: WeightFormat, dtype: torch.dtype
    ) -> None:
        self._form, self._dtype, self._blocks = form, dtype, blocks
        self._least, self._most = torch.aminmax(grouped, dim=-1)
        self._values = grouped.transpose(0, 1).contiguous()  # (groups, rows, width)
        self.low = self.high = torch.ones_like(self._least)
        self._best = self._loss(self.low, self.high)

    def ends(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Of ranges that are these fractions of the full ones."""
        return self._least.clamp(max=0) * low, self._most.clamp(min=0) * high

    def grid(self, low: Tensor, high: Tensor) -> Grid:
        """Of these ranges."""
        return self._form.grid(*self.ends(low, high), self._dtype)

    def attempt(self, low: Tensor, high: Tensor) -> None:
        """Keep these fractions where they are better."""
        loss = self._loss(low, high)
        better = loss < self._best
        self._best = torch.where(better, loss, self._best)
        self.low = torch.where(better, low, self.low)
        self.high = torch.where(better, high, self.high)

    def refit(self) -> None:
        """Try the ranges whose grid fits best to the codes that the best ranges give.

        Of ``w = scale * code + shift`` both are found by least squares in the loss; of a grid that
        is not two-ended, the scale alone.
        """
        grid = self.grid(self.low, self.high).turned().spread()
        steps = grid.nearest(self._values)
        pulled = self._weighed(steps)
        power, pull = (pulled * steps).sum(-1), (pulled * self._values).sum(-1)
        ones = self._blocks.sum(-2, keepdim=True)
        lean, own = (steps * ones).sum(-1), (self._values * ones).sum(-1)
        weight = self._blocks.sum((-1, -2)).unsqueeze(1)
        scale, shift = pull / power, torch.zeros_like(pull)
        if self._form.two_ended:
            spread = power * weight - lean * lean
            scale = (pull * weight - own * lean) / spread
            shift = (power * own - lean * pull) / spread
        ends = [end.squeeze(-1) * scale + shift for end in (grid.low, grid.high)]
        self._attempt_ends(torch.minimum(*ends).T, torch.maximum(*ends).T)

    def _attempt_ends(self, low: Tensor, high: Tensor) -> None:
        """As `attempt`, of ranges themselves, where they are ranges and not far off."""
        least, most = self._least.clamp(max=0), self._most.clamp(min=0)
        parts = [
            torch.where((end != 0) & (part > 0) & (part < MOST), part, own)
            for end, part, own in (
                (least, low / least, self.low),
                (most, high / most, self.high),
            )
        ]
        self.attempt(*parts)

    def _loss(self, low: Tensor, high: Tensor) -> Tensor:
        """``e^T G e`` of every group: ``(rows, groups)``."""
        grid = self.grid(low, high).turned().spread()
        error = grid.value_(grid.nearest(self._values)).sub_(self._values)
        return (self._weighed(error) * error).sum(-1).T

    def _weighed(self, x: Tensor) -> Tensor:
        """``x`` ``(groups, rows, width)`` times the blocks."""
        whole = self._blocks.shape[-2] == x.shape[-1]
        return x @ self._blocks if whole else x * self._blocks
