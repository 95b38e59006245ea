"""A cache that may lie in a buffer larger than what it holds."""

from __future__ import annotations

from typing import Any

from awqc.fusion.onnx_values import Node, Value, dims, readers
from awqc.fusion.workbench import STATE_RANK, Workbench
from awqc.kv_cache import OTHER_PAST, PAST, present_of

IN_PLACE = frozenset({"GroupQueryAttention"})
"""Operations that can write the new keys and values behind the past ones, where these are."""
TOKENS = 2
"""The axis of tokens in a cache."""


def measure_past(bench: Workbench) -> None:
    """The length of the past off inputs that count tokens, not off the cache.

    before:  p = Shape(past)[2]
    after:   p = Shape(mask)[1] - Shape(ids)[1]

    A cache in a buffer that is shared with what comes out is as long as the buffer.
    """
    for past in _pasts(bench.graph):
        for node in readers(past):
            if _measures_tokens(node):
                why = "no input covers past and new tokens"
                for length in _lengths(bench, past):
                    why = bench.switch("past length", {node.outputs[0]: length}, []) or ""
                    if not why:
                        break
                if why:
                    bench.apart[str(past.name)] = why


def can_share(graph: Any) -> bool:
    """Whether past and present may be one buffer: nothing reads a past but what works in place.

    No other state may grow with the tokens: it would have to lie in a buffer as well.
    """
    pasts = _pasts(graph)
    grow = [value for value in graph.inputs if value not in pasts and _grows(value)]
    return (
        bool(pasts)
        and not grow
        and all(
            node.op_type in IN_PLACE or (node.op_type == "Shape" and not _measures_tokens(node))
            for past in pasts
            for node in readers(past)
        )
    )


def _pasts(graph: Any) -> list[Value]:
    """Inputs that come back as outputs; what a decoder is given of an encoder does not."""
    made = {str(value.name) for value in graph.outputs}
    names = {value: str(value.name) for value in graph.inputs}
    return [
        value for value, name in names.items() if name.startswith(PAST) and present_of(name) in made
    ]


def _grows(value: Value) -> bool:
    """Whether ``value`` is a state with an axis beside the rows that is free."""
    sizes = dims(value) or []
    return str(value.name).startswith(OTHER_PAST) and any(isinstance(n, str) for n in sizes[1:])


def _measures_tokens(node: Node) -> bool:
    if node.op_type != "Shape":
        return False
    start, end = node.attributes.get_int("start", 0), node.attributes.get_int("end", TOKENS + 2)
    return bool(start <= TOKENS < end)


def _lengths(bench: Workbench, past: Value) -> list[Value]:
    """What may be the length of ``past``: places of past and new tokens less the new ones."""
    present = next(v for v in bench.graph.outputs if v.name == present_of(str(past.name)))
    total = (dims(present) or [""] * STATE_RANK)[TOKENS]
    flat = [v for v in bench.graph.inputs if 1 < len(dims(v) or []) < STATE_RANK]
    covering = next((value for value in flat if (dims(value) or [])[1] == total), None)
    if covering is None:
        return []
    others = {(dims(value) or [])[1]: value for value in flat if value is not covering}
    whole = bench.size(covering, 1)
    return [bench.add("Sub", [whole, bench.size(value, 1)]) for value in others.values()]
