"""Queries, keys and values that lie beside each other go into attention as they lie."""

from __future__ import annotations

from awqc.fusion.onnx_values import Value, dims, maker, numbers
from awqc.fusion.workbench import CONTRIB, Workbench
from awqc.targets.base import CACHED_ATTENTION

LAST = 2
"""The axis of channels."""


def pack_heads(bench: Workbench) -> None:
    """What was taken apart for attention alone, and is read whole by it.

    before:  q, k, v = Split(x);  o, k, v = GroupQueryAttention(q, k, v, ...)
    after:   o, k, v = GroupQueryAttention(x, , , ...)
    """
    for node in list(bench.graph):
        if node.op_type != CACHED_ATTENTION or None in node.inputs[:3]:
            continue
        packed = _packed(node.inputs[:3])
        if packed is None:
            continue
        attributes = {name: each.value for name, each in node.attributes.items()}
        made = bench.add(
            CACHED_ATTENTION,
            [packed, None, None, *node.inputs[3:]],
            tuple(node.outputs),
            domain=CONTRIB,
            at=node,
            **attributes,
        )
        bench.switch("packed heads", dict(zip(node.outputs, made, strict=True)), [packed])


def _packed(parts: tuple[Value, ...]) -> Value | None:
    """The value whose channels ``parts`` are, all of them in their order; None if there is none."""
    begin, sources = 0, set()
    for part in parts:
        found = _columns(part)
        width = (dims(part) or [""])[-1]
        if found is None or found[1] != begin or not isinstance(width, int):
            return None
        sources.add(found[0])
        begin += width
    source = sources.pop()
    return source if not sources and (dims(source) or [begin])[-1] == begin else None


def _columns(value: Value) -> tuple[Value, int] | None:
    """What ``value`` is cut out of along the channels, and the first of them."""
    node = maker(value, "Split", "Slice")
    if node is None:
        return None
    if node.op_type == "Split":
        sizes = numbers(node.inputs[1]) if len(node.inputs) > 1 else None
        last = node.attributes.get_int("axis", 0) in (-1, LAST)
        return (node.inputs[0], sum(sizes[: value.index()])) if last and sizes else None
    starts, _, axes, steps = (
        numbers(node.inputs[place]) if len(node.inputs) > place else [1] for place in range(1, 5)
    )
    plain = starts is not None and len(starts) == 1 and axes in ([-1], [LAST]) and steps == [1]
    return (node.inputs[0], starts[0]) if plain and starts else None
