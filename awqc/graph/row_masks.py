"""Rows of a value that matter: a mask may replace the others by zeros later on."""

from __future__ import annotations

import operator
import sys

import torch
from torch import Tensor
from torch.fx import Graph, Node

from awqc.graph.families import CASTS, COPIES, DROPOUTS, LAYER_NORMS, REDUCTIONS, SPLITS
from awqc.graph.ops import argument, first_argument, has_argument

aten = torch.ops.aten

REDUCED = (*REDUCTIONS, aten.var.correction)
"""Operations over the axes ``dim``, which ``keepdim`` keeps."""

NORMALIZED = (aten.softmax.int, aten._softmax.default, aten.log_softmax.int)
"""Operations along the axis ``dim``."""

SAME = (*CASTS, *COPIES, *DROPOUTS)


def selecting_masks(graph: Graph) -> dict[Node, Node]:
    """The mask ``(rows, 1)`` of the rows that matter, for each node where some do not.

    ``where(mask, f(x), 0)`` reads no other row of ``x`` if ``f`` works row by row. Mixtures of
    experts do this: each expert is right for the tokens that are sent to it, and only there.
    """
    masks: dict[Node, Node] = {}
    for node in reversed(graph.nodes):
        found = {_mask(user, node, masks) for user in node.users if user.op != "call_module"}
        mask = found.pop() if len(found) == 1 else None
        if mask is not None:
            masks[node] = mask
    return masks


def _mask(user: Node, source: Node, masks: dict[Node, Node]) -> Node | None:
    """The mask of the rows of ``source`` that ``user`` reads."""
    if (selected := masked(user)) is not None and selected[1] is source:
        return selected[0]
    return masks.get(user) if by_row(user, source) else None


def masked(node: Node) -> tuple[Node, Node] | None:
    """``(mask, value)`` where ``node`` keeps some rows of ``value``, and zeros the others."""
    if node.target is not aten.where.ScalarOther or argument(node, "other") != 0:
        return None
    mask, value = argument(node, "condition"), argument(node, "self")
    assert isinstance(mask, Node)
    assert isinstance(value, Node)
    fits = same_rows(mask, value) and mask.meta["val"].shape[-1:] == (1,)
    return (mask, value) if fits else None


def by_row(node: Node, source: Node) -> bool:
    """Whether each row of ``node`` depends on no other row of its argument ``source``.

    Rows are along all axes but the last.
    """
    target = node.target
    if node.op != "call_function":
        return False
    if target is operator.getitem:
        return source.target in SPLITS and by_row(source, first_argument(source))
    if target in (aten.linear.default, *LAYER_NORMS):
        names = [name for name in ("weight", "bias") if has_argument(target, name)]
        apart = source not in [argument(node, name) for name in names]
        by_last = target is aten.linear.default or len(argument(node, "normalized_shape")) == 1
        return argument(node, "input") is source and apart and by_last
    if target in (*SPLITS, aten.slice.Tensor, *NORMALIZED, *REDUCED):
        if first_argument(node) is not source:
            return False
        return _along_rows(node, source) or _is_all(node)
    if target in SAME:
        return first_argument(node) is source and same_rows(node, source)
    return torch.Tag.pointwise in getattr(target, "tags", ()) and same_rows(node, source)


def _along_rows(node: Node, source: Node) -> bool:
    """Whether the call ``node`` works along the last axis of ``source``, which stays an axis."""
    if node.target in REDUCED and not argument(node, "keepdim"):
        return False
    dim = argument(node, "dim")
    axes = dim if isinstance(dim, list | tuple) else [dim]
    return len(axes) == 1 and axes[0] in (-1, source.meta["val"].ndim - 1)


def _is_all(node: Node) -> bool:
    """Whether ``node`` is a slice that leaves nothing out, however long the axis is."""
    if node.target is not aten.slice.Tensor:
        return False
    start, end, step = (argument(node, name) for name in ("start", "end", "step"))
    return start in (0, None) and step == 1 and (end is None or end == sys.maxsize)


def same_rows(first: Node, second: Node) -> bool:
    """Whether both are tensors with the same axes but the last; symbolic sizes by their names."""
    a, b = first.meta.get("val"), second.meta.get("val")
    if not (isinstance(a, Tensor) and isinstance(b, Tensor)):
        return False
    return a.ndim == b.ndim and str(a.shape[:-1]) == str(b.shape[:-1])
