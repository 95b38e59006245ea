"""Coordinate descent on codes and scales, from codes that are good already."""

from __future__ import annotations

import torch
from torch import Tensor

from awqc.numerics.rounding.gram import conditioned
from awqc.numerics.rounding.grid import Grid

SMALLEST_STEP = 0.5


def descend(
    matrix: Tensor, steps: Tensor, gram: Tensor, grid: Grid, sweeps: int, damping: float
) -> Tensor:
    """Better codes less zero point, float32 ``(rows, columns)``; ``grid.scale`` is refitted.

    A sweep visits the groups in order. For each it sets the scale to the least-squares value
    given the codes, then each code to the best one given all others. The loss with the
    damped gram never grows, but for the rounding of scales to their dtype.

    Args:
        matrix: float32 ``(rows, columns)``.
        steps: codes less zero point to start from, of the same shape.
        gram: float32 ``(columns, columns)``.
        grid: scales and zero points; its scales are changed.
        sweeps: over all columns.
        damping: as a share of the gram's mean diagonal.
    """
    columns = matrix.shape[1]
    moments = conditioned(gram, damping)
    steps = steps.T.contiguous()
    values = matrix.T.contiguous()
    error = steps * grid.columns_scale(columns) - values
    for _ in range(sweeps):
        for group, start in enumerate(range(0, columns, grid.width)):
            span = slice(start, min(start + grid.width, columns))
            within = moments[span, span].contiguous()
            gradient = moments[span] @ error
            _refit(steps[span], error[span], gradient, within, grid, group)
            _improve(values[span], steps[span], error[span], gradient, within, grid, group)
    return steps.T


def _refit(
    steps: Tensor, error: Tensor, gradient: Tensor, within: Tensor, grid: Grid, group: int
) -> None:
    """Set one group's scale to the best one for its codes, where that is no big change."""
    scale = grid.scale[group]
    pull = within @ steps
    curvature = (pull * steps).sum(0)
    wanted = scale - (gradient * steps).sum(0) / curvature.clamp(min=1e-20)
    wanted = wanted.to(grid.dtype).float()
    sane = (wanted > SMALLEST_STEP * scale) & (wanted < scale / SMALLEST_STEP) & (curvature > 0)
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
    grid: Grid,
    group: int,
) -> None:
    """Set each code of one group to the best one given all others."""
    scale, low, high = grid.of_group(group)
    for i in range(len(values)):
        wanted = values[i] + error[i] - gradient[i] / within[i, i]
        step = torch.clamp((wanted / scale).round_(), low, high)
        now = step * scale - values[i]
        gradient.addr_(within[i], now - error[i])
        steps[i], error[i] = step, now
