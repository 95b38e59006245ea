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


def lookup_arguments(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    """Table and ids of a call of one of `LOOKUPS`."""
    names = ("weight", "indices") if func in TABLE_FIRST else ("input", "weight")
    named = dict(zip(names, args, strict=False)) | kwargs
    return named["weight"], named["input" if "input" in named else "indices"]


def learns(x: Tensor) -> bool:
    """Whether a gradient is to flow to ``x``."""
    return x.requires_grad and torch.is_grad_enabled()


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
