"""Products and lookups with a large matrix of which a few rows are there at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

LARGE = 2**22
"""Elements from which on a matrix is not made whole where it need not be: 16 MB in float32."""
AT_ONCE = 2**20
"""Elements that are made at once: what is made stays in the processor's cache."""

LINEAR = {torch.nn.functional.linear, torch.ops.aten.linear.default}
TABLE_FIRST = {torch.embedding, torch.ops.aten.embedding.default}
LOOKUPS = {torch.nn.functional.embedding, *TABLE_FIRST}
"""Operations that give some of the rows."""
METADATA = {
    *(
        getattr(Tensor, name).__get__
        for name in (
            "shape",
            "ndim",
            "device",
            "layout",
            "requires_grad",
            "is_leaf",
            "is_meta",
            "is_quantized",
            "is_sparse",
            "is_cuda",
            "grad",
            "grad_fn",
            "nbytes",
        )
    ),
    Tensor.requires_grad.__set__,  # type: ignore[attr-defined]  # a descriptor, which mypy takes for its value
    Tensor.requires_grad_,
    Tensor.size,
    Tensor.dim,
    Tensor.numel,
    Tensor.element_size,
    Tensor.stride,
    Tensor.storage_offset,
    Tensor.is_floating_point,
    Tensor.is_complex,
    Tensor.is_contiguous,
    Tensor.untyped_storage,
    torch.is_floating_point,
    torch.is_complex,
    torch.numel,
}
"""What is asked of a tensor and not computed with it."""

Rows = Callable[[int, int], Tensor]
"""``(start, stop) -> (stop - start, columns)``: some rows of a matrix."""


def steps(rows: int, columns: int) -> range:
    """Where slices of a matrix begin of which each has about `AT_ONCE` elements."""
    return range(0, max(1, rows), max(1, AT_ONCE // max(1, columns)))


def in_slices(tensor: Tensor) -> tuple[Tensor, ...]:
    """All rows of ``tensor``, about `AT_ONCE` elements at a time."""
    rows = max(1, len(tensor))
    parts: tuple[Tensor, ...] = tensor.split(steps(rows, tensor.numel() // rows).step)
    return parts


def linear_arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any, Any]:
    """Input, weight and bias of a call of one of `LINEAR`."""
    named = dict(zip(("input", "weight", "bias"), args, strict=False)) | kwargs
    return named["input"], named["weight"], named.get("bias")


def lookup_arguments(func: Any, args: tuple[Any, ...]) -> tuple[Any, Any]:
    """Table and ids of a call of one of `LOOKUPS` with these by position."""
    return (args[0], args[1]) if func in TABLE_FIRST else (args[1], args[0])


def linear_in_rows(x: Tensor, shape: torch.Size, rows: Rows, bias: Tensor | None) -> Tensor:
    """``x W^T + bias`` without a gradient, for a matrix of ``shape`` ``(rows, columns)``."""
    found: Tensor | None = None
    starts = steps(*shape)
    for start in starts:
        stop = min(start + starts.step, shape[0])
        here = None if bias is None else bias[start:stop]
        made = torch.nn.functional.linear(x, rows(start, stop), here)
        if found is None:
            found = made.new_empty(*made.shape[:-1], shape[0])
        found[..., start:stop] = made
    assert found is not None
    return found


def made_in_rows(shape: torch.Size, rows: Rows) -> Tensor:
    """The matrix itself."""
    starts = steps(*shape)
    parts = (rows(start, min(start + starts.step, shape[0])) for start in starts)
    first = next(parts)
    if len(starts) == 1:
        return first
    found = first.new_empty(tuple(shape))
    found[: len(first)] = first
    for start, part in zip(starts[1:], parts, strict=True):
        found[start : start + len(part)] = part
    return found
