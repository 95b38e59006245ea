"""Pooling to a grid, rolling and cutting, where a size is free: exact at every size.

torch's own definitions work out kernels and shifts from the sizes at hand, and a graph has them
as constants. Window ``i`` of ``n`` over an axis of ``L`` elements holds those from
``floor(i L / n)`` up to, without, ``ceil((i + 1) L / n)``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, TypeGuard

import torch
from torch import SymInt, Tensor
from torch.fx import Node

from awqc.graph.nodes import shape_of
from awqc.graph.ops import argument, index_of

aten = torch.ops.aten
MEANS = (
    aten.adaptive_avg_pool1d.default,
    aten.adaptive_avg_pool2d.default,
    aten.adaptive_avg_pool3d.default,
)
LARGEST_OF = (
    aten.adaptive_max_pool1d.default,
    aten.adaptive_max_pool2d.default,
    aten.adaptive_max_pool3d.default,
)


def free_form(node: Node) -> Callable[..., Any] | None:
    """A function that does what ``node`` does at every size; None where its own definition does.

    The places that a maximum is at have no such form.
    """
    if node.target is aten.roll.default:
        varies = any(isinstance(shift, Node) for shift in argument(node, "shifts"))
        return roll if varies else None
    if node.target is aten.chunk.default:
        varies = isinstance(shape_of(argument(node, "self"))[argument(node, "dim")], SymInt)
        return partial(cut_evenly, count=len(node.meta["val"])) if varies else None
    if node.target is aten.split.Tensor:
        varies = isinstance(argument(node, "split_size"), Node)
        return partial(cut_into, count=len(node.meta["val"])) if varies else None
    if node.target not in (*MEANS, *LARGEST_OF):
        return None
    counts = list(argument(node, "output_size"))
    pooled = shape_of(argument(node, "self"))[-len(counts) :]
    if not any(isinstance(size, SymInt) for size in pooled) or set(counts) == {1}:
        return None
    if node.target in MEANS:
        return pool_mean
    return None if any(index_of(user) == 1 and user.users for user in node.users) else pool_max


def pool_mean(x: Tensor, output_size: Sequence[int | None]) -> Tensor:
    """``adaptive_avg_pool`` over the last axes: a product with a matrix for each."""
    for axis, count in _axes(x, output_size):
        share = _windows(count, x.shape[axis], x.device).to(x.dtype)
        share = share / share.sum(-1, keepdim=True)
        x = torch.matmul(x.movedim(axis, -1), share.transpose(0, 1)).movedim(-1, axis)
    return x


def pool_max(x: Tensor, output_size: Sequence[int | None]) -> tuple[Tensor, Tensor]:
    """``adaptive_max_pool`` over the last axes; for the places, which none reads, values stand."""
    for axis, count in _axes(x, output_size):
        inside = _windows(count, x.shape[axis], x.device)
        rows = torch.where(inside, x.movedim(axis, -1).unsqueeze(-2), -torch.inf)
        x = rows.amax(-1).movedim(-1, axis)
    return x, x


def roll(x: Tensor, shifts: Sequence[int], dims: Sequence[int] = ()) -> Tensor:
    """``torch.roll`` along ``dims``, or in one row: what is beyond the end comes first."""
    if not dims:
        return roll(x.reshape(-1), shifts, (0,)).reshape(x.shape)
    for shift, dim in zip(shifts, dims, strict=True):
        size = x.shape[dim]
        start = (size - shift) % size
        x = torch.cat([x.narrow(dim, start, size - start), x.narrow(dim, 0, start)], dim)
    return x


def cut_evenly(x: Tensor, chunks: int, dim: int = 0, *, count: int) -> tuple[Tensor, ...]:
    """``torch.chunk``, of which ``count`` come: slices of one size, the last may be shorter."""
    return cut_into(x, (x.shape[dim] + chunks - 1) // chunks, dim, count=count)


def cut_into(x: Tensor, split_size: int, dim: int = 0, *, count: int) -> tuple[Tensor, ...]:
    """``torch.split`` into pieces of ``split_size``, of which ``count`` come."""
    ends = [place * split_size for place in range(count + 1)]
    return tuple(aten.slice.Tensor(x, dim, start, end) for start, end in pairwise(ends))


def _axes(x: Tensor, output_size: Sequence[int | None]) -> list[tuple[int, int]]:
    """The axes that are pooled, each with its number of windows."""
    pairs = enumerate(output_size, start=x.ndim - len(output_size))
    return [(axis, count) for axis, count in pairs if _pooled(count, x.shape[axis])]


def _pooled(count: Any, size: Any) -> TypeGuard[int]:
    """Whether they may be two numbers at some size; ``==`` would ask for the example's."""
    if isinstance(count, SymInt) and isinstance(size, SymInt):
        return bool(count.node.expr != size.node.expr)
    return count is not None and not (isinstance(size, int) and bool(count == size))


def _windows(count: int, size: int, device: torch.device) -> Tensor:
    """Which elements are in which window: flags ``(count, size)``."""
    place = torch.arange(size, device=device)
    window = torch.arange(count, device=device).unsqueeze(-1)
    first = torch.div(window * size, count, rounding_mode="floor")
    beyond = torch.div((window + 1) * size + count - 1, count, rounding_mode="floor")
    return (place >= first) & (place < beyond)
