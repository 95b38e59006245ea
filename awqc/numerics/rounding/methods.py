"""How a matrix gets its codes, as the request says."""

from __future__ import annotations

import torch
from torch import Tensor

from awqc.numerics.formats.base import Tensors, WeightFormat, from_groups, to_groups
from awqc.numerics.quantizing import whole_range
from awqc.numerics.request import QuantizationSpec
from awqc.numerics.rounding.descent import descend
from awqc.numerics.rounding.gptq import compensate
from awqc.numerics.rounding.ranges import search_ranges

DESCENT_DAMPING = 0.01


def round_matrix(
    matrix: Tensor,
    gram: Tensor,
    form: WeightFormat,
    dtype: torch.dtype,
    spec: QuantizationSpec,
) -> Tensors:
    """What stores ``matrix`` in ``form``, as `WeightFormat.encode` gives it.

    Args:
        matrix: float32 ``(rows, columns)``.
        gram: float32 ``(columns, columns)``, second moments of what it is multiplied with.
        form: how it is stored.
        dtype: that the scales will be stored in.
        spec: the request.
    """
    columns = matrix.shape[1]
    width = form.width(columns)
    if spec.clip:
        grid = search_ranges(matrix, gram, form, dtype)
    else:
        grid = whole_range(matrix, form, dtype)[0]
    turned = grid.turned()
    if spec.rounding == "gptq":
        steps = compensate(matrix, gram, turned, width)
    else:
        steps = from_groups(grid.spread().nearest(to_groups(matrix, form)), columns)
    if spec.sweeps:
        steps = descend(matrix, steps, gram, turned, width, spec.sweeps, DESCENT_DAMPING)
    return form.encode(steps, turned.turned())
