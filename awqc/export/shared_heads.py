"""Attention over heads that were repeated: let it read them before they were."""

from __future__ import annotations

import sys
from typing import cast

import torch
from torch.fx import Node
from torch.fx.experimental.symbolic_shapes import statically_known_true

from awqc.graph.families import RESHAPES
from awqc.graph.nodes import shape_of
from awqc.graph.ops import argument, leading_arguments, set_argument

aten = torch.ops.aten
_HEADS = -3


def share_heads(node: Node) -> None:
    """Undo the repetition of key and value heads in front of an attention, in place.

        before:  attention(q, repeat(k), repeat(v))        k, v: (..., h, n, d); q: (..., g h, m, d)
        after:   attention(q, k, v, enable_gqa=True)

    Else a decoder with a cache copies all of it ``g`` times at each step. Repetitions are
    known by shapes: ``repeat_interleave``, or ``expand`` of an axis behind the heads and
    ``reshape``.
    """
    query, key, value = leading_arguments(node, 3)
    if len(shape_of(query)) <= -_HEADS - 1 or shape_of(query)[_HEADS] != shape_of(key)[_HEADS]:
        return
    keys, values = _before_repeat(key), _before_repeat(value)
    if keys is None or values is None or shape_of(keys)[_HEADS] != shape_of(values)[_HEADS]:
        return
    set_argument(node, "key", _squeezed(keys, node))
    set_argument(node, "value", _squeezed(values, node))
    set_argument(node, "enable_gqa", True)


def _before_repeat(node: Node) -> Node | None:
    """The value ``(..., h, n, d)`` or ``(..., h, 1, n, d)`` of which ``node`` repeats each head."""
    if node.target is aten.repeat_interleave.self_int:
        source, times, axis = leading_arguments(node, 3)
        plain = isinstance(times, int) and axis in (_HEADS, len(shape_of(node)) + _HEADS)
        return source if plain else None
    if node.target not in RESHAPES:
        return None
    spread = argument(node, "self")
    if spread.target is not aten.expand.default:
        return None
    narrow: Node = argument(spread, "self")
    *batch, heads, length, width = shape_of(node)
    inner = shape_of(narrow)
    if len(inner) != len(batch) + 4 or not isinstance(inner[-4], int) or inner[_HEADS] != 1:
        return None
    times = shape_of(spread)[_HEADS]
    wanted = (*batch, inner[-4], 1, length, width)
    same = all(statically_known_true(a == b) for a, b in zip(inner, wanted, strict=True))
    return narrow if same and heads == inner[-4] * times else None


def _squeezed(source: Node, node: Node) -> Node:
    """``source`` without the axis of one behind its heads, for ``node`` to read."""
    rank = len(shape_of(node))
    if len(shape_of(source)) == rank:
        return source
    while _is_whole_slice(source):
        source = argument(source, "self")
    unsqueezed = source.target is aten.unsqueeze.default
    if unsqueezed and argument(source, "dim") in (_HEADS, rank + 1 + _HEADS):
        return cast(Node, argument(source, "self"))
    with node.graph.inserting_before(node):
        squeezed = node.graph.call_function(aten.squeeze.dim, (source, _HEADS))
    squeezed.meta = {**node.meta, "val": source.meta["val"].squeeze(_HEADS)}
    return squeezed


def _is_whole_slice(node: Node) -> bool:
    """Whether ``node`` is ``x[:]`` along some axis."""
    if node.target is not aten.slice.Tensor:
        return False
    start, end, step = (argument(node, name) for name in ("start", "end", "step"))
    return start in (None, 0) and end in (None, sys.maxsize) and step == 1
