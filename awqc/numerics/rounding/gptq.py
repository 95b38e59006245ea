"""Rounding column by column, each error compensated by the columns that are still free.

Errors ``e`` of a row cost ``e^T H e``. With ``H = L D L^T``, ``L`` unit lower, that is::

    sum_k  D_k (e_k + sum_j>k L_jk e_j)^2

Whoever rounds the last column first knows, at column ``k``, all but ``e_k`` of the ``k``-th addend,
and makes it least by taking what is nearest to the column's value plus ``sum_j>k L_jk e_j``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from awqc.machine.cuda_graph import recorded
from awqc.numerics.grid import Grid
from awqc.numerics.rounding.gram import DAMPING, conditioned

BLOCK = 64
FAR = 4.0
"""Times the error of a row's nearest values, beyond which the row takes these."""
AT_ONCE = 2**20
"""Elements of rows that are compared with their nearest values at once."""
WIDE = 256
"""Columns whose addends are computed at once."""


def compensate(matrix: Tensor, gram: Tensor, grid: Grid, width: int) -> Tensor:
    """Steps of ``grid``, float32 ``(rows, columns)``, for ``matrix`` of that shape.

    Columns are rounded in the order of their energy, the largest first; the error of each is
    spread over the columns that follow so that the outputs change least. ``grid``, ``(groups,
    rows)``, is fixed; a group spans ``width`` columns. A row that this leaves `FAR` from what its
    nearest values give, as where the columns left have no room for the errors, takes these.
    Source: GPTQ, arXiv 2210.17323, section 3, with its ordering by diagonal; without an inverse,
    as QuIP, arXiv 2307.13304, section 4, shows.
    """
    columns = matrix.shape[1]
    order = torch.argsort(gram.diagonal(), stable=True)
    moments = _Factored.of(gram, order)
    factor, errors = moments.factor, matrix.T[order].contiguous()  # a step touches a whole line
    steps, cost = torch.empty_like(errors), errors.new_zeros(len(matrix))
    round_block = recorded(_round_block, matrix.device)
    for stop in range(columns, 0, -BLOCK):
        here = slice(max(stop - BLOCK, 0), stop)
        some, values = order[here], errors[here]  # those behind are errors by now
        lines = grid.map(lambda tensor, groups=some // width: tensor[groups])  # type: ignore[misc]  # a default binds groups
        wanted = torch.addmm(values, factor[stop:, here].T, errors[stop:])
        made, left, off = round_block(values, wanted, factor[here, here], lines)
        steps[some], errors[here] = made, left
        cost += moments.cost(here, left, off)
    del errors
    at_once = max(1, AT_ONCE // columns)
    for start in range(0, len(matrix), at_once):
        rows = slice(start, start + at_once)
        whole = grid.map(lambda tensor, rows=rows: tensor[:, rows]).columns(width, columns)  # type: ignore[misc]  # a default binds rows
        nearest = whole.nearest(matrix[rows].T)
        least = moments.whole_cost((matrix[rows].T - whole.value(nearest))[order])
        made = steps[:, rows]
        made.copy_(torch.where(cost[rows] > FAR * least, nearest, made))
    return steps.T


def _round_block(
    values: Tensor, wanted: Tensor, factor: Tensor, grid: Grid
) -> tuple[Tensor, Tensor, Tensor]:
    """Steps of ``grid`` for some columns, how far they are off ``values``, and off the targets.

    All are ``(columns, rows)``. ``wanted`` are the targets as far as other columns tell, and are
    written to; ``factor`` ``(columns, columns)`` is of these columns.
    """
    steps, errors = torch.empty_like(values), torch.empty_like(values)
    for i, line in reversed([*enumerate(grid.lines())]):
        step = line.nearest(wanted[i])
        steps[i] = step
        torch.sub(values[i], line.value_(step), out=errors[i])
        if i:
            wanted[:i].addr_(factor[i, :i], errors[i])
    return steps, errors, wanted.sub_(values).add_(errors)


class _Factored:
    """Moments ``L D L^T`` of columns in some order, damped.

    Attributes:
        factor: ``L``, unit lower, ``(columns, columns)``.
    """

    def __init__(self, factor: Tensor, weights: Tensor) -> None:
        self.factor, self._weights = factor, weights

    @classmethod
    def of(cls, gram: Tensor, order: Tensor) -> _Factored:
        """Of the columns ``order`` of ``gram``.

        In float32: what it rounds is less than the damping, even where one column has all energy.
        """
        # Symmetric, it is turned to lie column by column: LAPACK then needs no other matrix.
        factor = conditioned(gram)[order[:, None], order].mT
        torch.linalg.cholesky(factor, out=factor)
        pivots = factor.diagonal().clone()
        return cls(factor.div_(pivots), pivots.square())

    def cost(self, here: slice, errors: Tensor, off: Tensor) -> Tensor:
        """Of each row, what ``errors`` of the columns ``here`` add, undamped.

        ``off`` is what `_round_block` gives. Both are ``(columns, rows)``.
        """
        return self._weights[here] @ off.square() - DAMPING * errors.square().sum(0)

    def whole_cost(self, errors: Tensor) -> Tensor:
        """Of each row, what ``errors`` of all columns cost, undamped."""
        total = errors.new_zeros(errors.shape[1])
        for start in range(0, len(errors), WIDE):
            here = slice(start, start + WIDE)
            off = self.factor[start:, here].T @ errors[start:]
            total += self.cost(here, errors[here], off)
        return total
