"""Coordinate descent on codes and scales, from codes that are good already."""

from __future__ import annotations

import torch
from torch import Tensor

from awqc.numerics.grid import Grid
from awqc.numerics.rounding.gram import conditioned

SMALLEST_STEP = 0.5


def descend(
    matrix: Tensor,
    steps: Tensor,
    gram: Tensor,
    grid: Grid,
    width: int,
    sweeps: int,
    damping: float,
) -> Tensor:
    """Better steps, float32 ``(rows, columns)``; ``grid.scale`` is refitted in its place.

    A sweep visits the groups in order. For each it sets the scale to the least-squares value
    given the codes, or the nearest that can be stored, then each code to the best one given all
    others. The loss with the damped gram never grows.

    Args:
        matrix: float32 ``(rows, columns)``.
        steps: of ``grid``, to start from, of the same shape.
        gram: float32 ``(columns, columns)``.
        grid: ``(groups, rows)``; its scales are changed.
        width: columns a group.
        sweeps: over all columns.
        damping: as a share of the gram's mean diagonal.
    """
    columns = matrix.shape[1]
    moments = conditioned(gram, damping)
    steps = steps.T.contiguous()
    values = matrix.T.contiguous()
    error = grid.columns(width, columns).value(steps) - values
    for _ in range(sweeps):
        for line, start in zip(grid.lines(), range(0, columns, width), strict=True):
            span = slice(start, min(start + width, columns))
            within = moments[span, span].contiguous()
            gradient = moments[span] @ error
            _refit(steps[span], error[span], gradient, within, line)
            _improve(values[span], steps[span], error[span], gradient, within, line)
    return steps.T


def _refit(steps: Tensor, error: Tensor, gradient: Tensor, within: Tensor, line: Grid) -> None:
    """Set one group's scale to the best one for its codes, where that is no big change."""
    scale = line.scale
    pull = within @ steps
    curvature = (pull * steps).sum(0)
    wanted = scale - (gradient * steps).sum(0) / curvature.clamp(min=1e-20)
    wanted = line.snapped(wanted)
    size, now = wanted * scale.sign(), scale.abs()  # a scale may be negative, and stays so
    sane = (size > SMALLEST_STEP * now) & (size < now / SMALLEST_STEP) & (curvature > 0)
    change = torch.where(sane, wanted - scale, 0.0)
    error += steps * change
    gradient += pull * change
    scale += change


def _improve(
    values: Tensor,
    steps: Tensor,
    error: Tensor,
    gradient: Tensor,
    within: Tensor,
    line: Grid,
) -> None:
    """Set each code of one group to the best one given all others."""
    for i in range(len(values)):
        wanted = values[i] + error[i] - gradient[i] / within[i, i]
        steps[i] = step = line.nearest(wanted)
        now = line.value_(step) - values[i]
        gradient.addr_(within[i], now - error[i])
        error[i] = now
