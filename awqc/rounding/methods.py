"""How a matrix gets its codes: the request, and the steps that carry it out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from awqc.qparams import Granularity, choose_qparams, from_groups, round_to_grid, to_groups
from awqc.rounding.descent import descend
from awqc.rounding.gptq import compensate
from awqc.rounding.grid import Grid
from awqc.rounding.ranges import search_ranges

ROUNDINGS = ("nearest", "gptq")
DESCENT_DAMPING = 0.01


@dataclass(frozen=True)
class Rounding:
    """How codes are chosen.

    Attributes:
        method: ``nearest`` or ``gptq``.
        clip: search each group's range instead of taking its minimum and maximum.
        sweeps: of coordinate descent on codes and scales afterwards.
    """

    method: str = "nearest"
    clip: bool = False
    sweeps: int = 0

    @property
    def learns(self) -> bool:
        """Whether the moments of what the product reads are needed."""
        return self.method != "nearest" or self.clip or self.sweeps > 0


def round_matrix(
    matrix: Tensor,
    gram: Tensor,
    granularity: Granularity,
    dtype: torch.dtype,
    rounding: Rounding,
) -> tuple[Tensor, Tensor, Tensor]:
    """Codes ``(rows, columns)``, scale and zero point ``(rows, groups)``, all float32.

    Args:
        matrix: float32 ``(rows, columns)``.
        gram: float32 ``(columns, columns)``, second moments of what it is multiplied with.
        granularity: bits, group size and symmetry.
        dtype: that the scales will be stored in.
        rounding: the method.
    """
    columns = matrix.shape[1]
    grouped = to_groups(matrix, granularity)
    if rounding.clip:
        scale, zero = search_ranges(matrix, gram, granularity, dtype)
    else:
        scale, zero = choose_qparams(*torch.aminmax(grouped, dim=-1), granularity, dtype)
    if rounding.method == "nearest" and rounding.sweeps == 0:
        codes = from_groups(round_to_grid(grouped, scale, zero, granularity), columns)
        return codes, scale, zero
    grid = Grid.of(scale, zero, granularity, columns, dtype)
    if rounding.method == "gptq":
        steps = compensate(matrix, gram, grid)
    else:
        codes = round_to_grid(grouped, scale, zero, granularity)
        steps = from_groups(codes - zero.unsqueeze(-1), columns)
    if rounding.sweeps:
        steps = descend(matrix, steps, gram, grid, rounding.sweeps, DESCENT_DAMPING)
    scale = grid.scale.T.contiguous()
    shift = zero.repeat_interleave(grid.width, dim=1)[:, :columns]
    return steps + shift, scale, zero
