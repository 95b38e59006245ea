"""Rounding column by column, each error compensated by the columns that are still free."""

from __future__ import annotations

import torch
from torch import Tensor

from awqc.machine.cuda_graph import recorded
from awqc.numerics.grid import Grid
from awqc.numerics.quantizing import rows_at_once
from awqc.numerics.rounding.gram import conditioned

BLOCK = 64
FAR = 4.0
"""Times the error of a row's nearest values, beyond which the row takes these."""


def compensate(matrix: Tensor, gram: Tensor, grid: Grid, width: int) -> Tensor:
    """Steps of ``grid``, float32 ``(rows, columns)``, for ``matrix`` of that shape.

    Columns are rounded in the order of their energy, the largest first; the error of each is
    spread over the columns that follow so that the outputs change least. ``grid``, ``(groups,
    rows)``, is fixed; a group spans ``width`` columns. A row that this leaves `FAR` from what its
    nearest values give, as where the columns left have no room for the errors, takes these.
    Source: GPTQ, arXiv 2210.17323, section 3, with its ordering by diagonal.
    """
    columns = matrix.shape[1]
    order = torch.argsort(gram.diagonal(), descending=True, stable=True)
    factor = _inverse_factor(conditioned(gram)[order[:, None], order])
    values = matrix.T[order].contiguous()  # (columns, rows): a step touches a whole line
    steps = torch.empty_like(values)
    round_block = recorded(_round_block, matrix.device)
    for start in range(0, columns, BLOCK):
        stop = min(start + BLOCK, columns)
        some = order[start:stop]
        lines = grid.map(lambda tensor, groups=some // width: tensor[groups])  # type: ignore[misc]  # a default binds groups
        made, errors = round_block(values[start:stop], factor[start:stop, start:stop], lines)
        steps[some] = made
        if stop < columns:
            values[stop:].addmm_(factor[start:stop, stop:].T, errors, alpha=-1)
    at_once = rows_at_once(matrix, matrix.device)
    for start in range(0, len(matrix), at_once):
        _spare_far(matrix, steps, gram, grid, width, slice(start, start + at_once))
    return steps.T


def _round_block(values: Tensor, factor: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """Steps of ``grid`` for some columns, ``(columns, rows)``, and the error that each leaves.

    ``factor`` ``(columns, columns)`` is of these columns; ``values`` are written to.
    """
    steps, errors = torch.empty_like(values), torch.empty_like(values)
    for i, line in enumerate(grid.lines()):
        step = line.nearest(values[i])
        steps[i] = step
        torch.sub(values[i], line.value_(step), out=errors[i]).div_(factor[i, i])
        if i + 1 < len(values):
            values[i + 1 :].addr_(factor[i, i + 1 :], errors[i], alpha=-1)
    return steps, errors


def _spare_far(
    matrix: Tensor, steps: Tensor, gram: Tensor, grid: Grid, width: int, some: slice
) -> None:
    """Let those of the rows ``some`` of which ``steps`` are `FAR` off be their nearest values."""
    values, made = matrix[some].T, steps[:, some]
    whole = grid.map(lambda tensor: tensor[:, some]).columns(width, len(values))
    nearest = whole.nearest(values)
    found, least = (_energy(whole.value(each) - values, gram) for each in (made, nearest))
    made.copy_(torch.where(found > FAR * least, nearest, made))


def _energy(errors: Tensor, gram: Tensor) -> Tensor:
    """What ``errors`` ``(columns, rows)`` of a matrix do to its product, for each row."""
    return (gram @ errors).mul_(errors).sum(0)


def _inverse_factor(gram: Tensor) -> Tensor:
    """Upper triangular ``U`` with ``U^T U = gram^-1``, from one Cholesky of the flipped matrix.

    The matrices of doubles, symmetric at first, are turned to lie column by column: LAPACK works in
    them, and needs no others.
    """
    lower = gram.flip(0, 1).double().mT
    torch.linalg.cholesky(lower, out=lower)
    inverse = torch.eye(len(gram), dtype=torch.float64, device=gram.device).mT
    torch.linalg.solve_triangular(lower, inverse, upper=False, out=inverse)
    del lower
    inverse = inverse.float()
    factor: Tensor = inverse.flip(0, 1).contiguous()  # read row by row
    return factor
