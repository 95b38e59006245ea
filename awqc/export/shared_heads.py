"""Attention over heads that were repeated: let it read them before they were."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch.fx import Node
from torch.fx.experimental.symbolic_shapes import statically_known_true

from awqc.graph.nodes import shape_of

aten = torch.ops.aten
_HEADS = -3
_SHAPING = (aten.reshape.default, aten.view.default, aten._unsafe_view.default)


def share_heads(node: Node) -> None:
    """Undo the repetition of key and value heads in front of an attention, in place.

        before:  attention(q, repeat(k), repeat(v))        k, v: (..., h, n, d); q: (..., g h, m, d)
        after:   attention(q, k, v, enable_gqa=True)

    Else a decoder with a cache copies all of it ``g`` times at each step. Repetitions are
    known by shapes: ``repeat_interleave``, or ``expand`` of an axis behind the heads and
    ``reshape``.
    """
    query, key, value = (each for each in node.args[:3] if isinstance(each, Node))
    if len(shape_of(query)) <= -_HEADS - 1 or shape_of(query)[_HEADS] != shape_of(key)[_HEADS]:
        return
    sources = [_before_repeat(key), _before_repeat(value)]
    heads = {shape_of(source)[_HEADS] for source in sources if source is not None}
    if None in sources or len(heads) != 1:
        return
    node.args = (query, *(_squeezed(s, node) for s in sources if s is not None), *node.args[3:])
    node.kwargs = {**node.kwargs, "enable_gqa": True}


def _before_repeat(node: Node) -> Node | None:
    """The value ``(..., h, n, d)`` or ``(..., h, 1, n, d)`` of which ``node`` repeats each head."""
    if node.target is aten.repeat_interleave.self_int:
        source, times, axis = (*node.args, *[node.kwargs.get("dim")])[:3]
        rank = len(shape_of(node))
        plain = isinstance(times, int) and axis in (_HEADS, rank + _HEADS)
        return source if plain and isinstance(source, Node) else None
    if node.target not in _SHAPING:
        return None
    spread = node.args[0]
    if not isinstance(spread, Node) or spread.target is not aten.expand.default:
        return None
    source = spread.args[0]
    assert isinstance(source, Node)
    *batch, heads, length, width = shape_of(node)
    inner = shape_of(source)
    if len(inner) != len(batch) + 4 or not isinstance(inner[-4], int) or inner[_HEADS] != 1:
        return None
    times = shape_of(spread)[_HEADS]
    wanted = (*batch, inner[-4], 1, length, width)
    same = all(statically_known_true(a == b) for a, b in zip(inner, wanted, strict=True))
    return source if same and heads == inner[-4] * times else None


def _squeezed(source: Node, node: Node) -> Node:
    """``source`` without the axis of one behind its heads, for ``node`` to read."""
    rank = len(shape_of(node))
    if len(shape_of(source)) == rank:
        return source
    while _is_whole_slice(source):
        source = source.args[0]  # type: ignore[assignment]
    if source.target is aten.unsqueeze.default and source.args[1] in (_HEADS, rank + 1 + _HEADS):
        return source.args[0]  # type: ignore[return-value]
    with node.graph.inserting_before(node):
        squeezed = node.graph.call_function(aten.squeeze.dim, (source, _HEADS))
    squeezed.meta = {**node.meta, "val": source.meta["val"].squeeze(_HEADS)}
    return squeezed


def _is_whole_slice(node: Node) -> bool:
    """Whether ``node`` is ``x[:]`` along some axis."""
    if node.target is not aten.slice.Tensor:
        return False
    bounds: tuple[Any, ...] = node.args[2:]
    return not node.kwargs and bounds in ((), (0,), (0, sys.maxsize), (0, sys.maxsize, 1))
