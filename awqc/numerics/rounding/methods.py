"""How a matrix gets its codes, as the request says."""

from __future__ import annotations

import torch
from torch import Tensor

from awqc.numerics.qparams import Granularity, choose_qparams, from_groups, round_to_grid, to_groups
from awqc.numerics.request import QuantizationSpec
from awqc.numerics.rounding.descent import descend
from awqc.numerics.rounding.gptq import compensate
from awqc.numerics.rounding.grid import Grid
from awqc.numerics.rounding.ranges import search_ranges

DESCENT_DAMPING = 0.01


def round_matrix(
    matrix: Tensor,
    gram: Tensor,
    granularity: Granularity,
    dtype: torch.dtype,
    spec: QuantizationSpec,
) -> tuple[Tensor, Tensor, Tensor]:
    """Codes ``(rows, columns)``, scale and zero point ``(rows, groups)``, all float32.

    Args:
        matrix: float32 ``(rows, columns)``.
        gram: float32 ``(columns, columns)``, second moments of what it is multiplied with.
        granularity: bits, group size and symmetry.
        dtype: that the scales will be stored in.
        spec: the request.
    """
    columns = matrix.shape[1]
    grouped = to_groups(matrix, granularity)
    if spec.clip:
        scale, zero = search_ranges(matrix, gram, granularity, dtype)
    else:
        scale, zero = choose_qparams(*torch.aminmax(grouped, dim=-1), granularity, dtype)
    if spec.rounding == "nearest" and spec.sweeps == 0:
        codes = from_groups(round_to_grid(grouped, scale, zero, granularity), columns)
        return codes, scale, zero
    grid = Grid.of(scale, zero, granularity, columns, dtype)
    if spec.rounding == "gptq":
        steps = compensate(matrix, gram, grid)
    else:
        codes = round_to_grid(grouped, scale, zero, granularity)
        steps = from_groups(codes - zero.unsqueeze(-1), columns)
    if spec.sweeps:
        steps = descend(matrix, steps, gram, grid, spec.sweeps, DESCENT_DAMPING)
    scale = grid.scale.T.contiguous()
    shift = zero.repeat_interleave(grid.width, dim=1)[:, :columns]
    return steps + shift, scale, zero
