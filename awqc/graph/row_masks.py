"""Rows of a value that matter: a mask may replace the others by zeros later on."""

from __future__ import annotations

import operator

import torch
from torch import Tensor
from torch.fx import Graph, Node

from awqc.graph.families import SPLITS
from awqc.graph.ops import argument, first_argument

aten = torch.ops.aten


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
    if target is aten.linear.default:
        others = argument(node, "weight"), argument(node, "bias")
        return argument(node, "input") is source and source not in others
    if target in (*SPLITS, aten.slice.Tensor):
        if first_argument(node) is not source:
            return False
        return argument(node, "dim") in (-1, source.meta["val"].ndim - 1)
    return torch.Tag.pointwise in getattr(target, "tags", ()) and same_rows(node, source)


def same_rows(first: Node, second: Node) -> bool:
    """Whether both are tensors with the same axes but the last; symbolic sizes by their names."""
    a, b = first.meta.get("val"), second.meta.get("val")
    if not (isinstance(a, Tensor) and isinstance(b, Tensor)):
        return False
    return a.ndim == b.ndim and str(a.shape[:-1]) == str(b.shape[:-1])
