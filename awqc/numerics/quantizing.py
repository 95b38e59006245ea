"""Quantizing to nearest, in any format."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from awqc.machine.devices import CPU, moved
from awqc.numerics.formats.base import (
    QuantizedWeight,
    Tensors,
    WeightFormat,
    from_groups,
    to_groups,
)
from awqc.numerics.grid import Grid

CHUNK = 2**19
"""Elements that are rounded at once: large temporaries cost memory and gain nothing."""
CHUNK_THERE = 2**24
"""The same on another device, which takes as long to be asked for a few as for many."""


Find = Callable[[Tensor, WeightFormat, torch.dtype], tuple[Grid, Tensor]]
"""The grid of the groups of a matrix, and the matrix cut into groups."""


def whole_range(matrix: Tensor, form: WeightFormat, dtype: torch.dtype) -> tuple[Grid, Tensor]:
    """The grid of groups that span their minimum and maximum, and ``matrix`` cut into groups.

    ``matrix`` is ``(..., rows, columns)``.
    """
    grouped = to_groups(matrix.float(), form)
    return form.grid(*torch.aminmax(grouped, dim=-1), dtype), grouped


def fake_quantize(matrix: Tensor, form: WeightFormat, dtype: torch.dtype) -> Tensor:
    """Quantize to nearest and back: float32 ``(..., rows, columns)``.

    This is what `quantize` followed by dequantizing gives, without making codes.
    """
    grid, grouped = whole_range(matrix, form, dtype)
    spread = grid.spread()
    return from_groups(spread.value_(spread.nearest(grouped)), matrix.shape[-1])


def quantize(
    weight: Tensor,
    rows: int,
    form: WeightFormat,
    scale_dtype: torch.dtype | None = None,
    device: torch.device = CPU,
    find: Find = whole_range,
) -> QuantizedWeight:
    """Quantize ``weight``, seen as ``(rows, everything else)``, to the nearest values.

    Scales have the weight's dtype, and values that ``scale_dtype`` can represent exactly; ``find``
    chooses the grid. Large weights are worked on some rows at a time, on ``device``.
    """
    matrix = weight.detach().reshape(rows, -1)
    dtype = scale_dtype or weight.dtype
    parts = [
        moved(_nearest(moved(part, device), form, dtype, find), CPU)
        for part in matrix.split(rows_at_once(matrix, device))
    ]
    return quantized_weight(weight, joined(parts), form)


def _nearest(matrix: Tensor, form: WeightFormat, dtype: torch.dtype, find: Find) -> Tensors:
    grid, grouped = find(matrix, form, dtype)
    return form.encode(from_groups(grid.spread().nearest(grouped), matrix.shape[1]), grid)


def joined(parts: Sequence[Tensors]) -> Tensors:
    """Rows of ``parts``, one after the other."""
    return {role: torch.cat([part[role] for part in parts]) for role in parts[0]}


def quantized_weight(weight: Tensor, tensors: Tensors, form: WeightFormat) -> QuantizedWeight:
    """``tensors`` as `WeightFormat.encode` makes them, in place of ``weight``."""
    return QuantizedWeight(form, tensors, tuple(weight.shape)).to(weight.dtype)


def rows_at_once(matrix: Tensor, device: torch.device) -> int:
    """How many rows of ``matrix`` ``(..., rows, columns)`` to work on at a time, on ``device``."""
    most = CHUNK if device == CPU else CHUNK_THERE
    return max(1, most // max(matrix.shape[-1], 1))
