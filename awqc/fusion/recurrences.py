"""Linear attention, a scan over tokens, as one operation."""

from __future__ import annotations

from awqc.fusion.onnx_values import Node, Value, dims
from awqc.fusion.workbench import CONTRIB, PRODUCTS, Workbench
from awqc.targets.base import LINEAR_ATTENTION

STATE_AXES, TOKEN_AXES = 4, 4
WITHOUT_BETA = 5
"""Operands of a scan: a state, queries, keys, values and decays."""


def fuse_recurrences(bench: Workbench) -> None:
    """A state that each token decays and adds to.

    before:  s, o = Scan(s, q, k, v, g[, b]):  s = exp(g) s + k (v - [s k]) [b];  o = s q
    after:   o, s = LinearAttention(q, k, v, s, g[, b])       heads beside each other in q, k, v, g

    What the scan does with a token is not looked at: the proof is on all of it, from the products
    on that made its operands.
    """
    if LINEAR_ATTENTION not in bench.target.fused:
        return
    for node in [each for each in bench.graph if each.op_type == "Scan"]:
        made = _fused(bench, node)
        if made is not None:
            stops = _sources(node)
            why = bench.switch(LINEAR_ATTENTION, dict(zip(node.outputs, made, strict=True)), stops)
            if why is not None:
                bench.apart[str(node.outputs[1].name)] = why


def _fused(bench: Workbench, node: Node) -> tuple[Value, Value] | None:
    """The state and the results, made by one operation; None where sizes are not those of heads."""
    sizes = [dims(value) or [] for value in node.inputs]
    shapes = [len(each) for each in sizes]
    if len(node.outputs) != 2 or shapes[:1] != [STATE_AXES] or len(shapes) < WITHOUT_BETA:
        return None
    heads = sizes[0][1]
    if shapes[1:] != [TOKEN_AXES] * (len(shapes) - 1) or not isinstance(heads, int):
        return None
    flat = bench.constant([0, 0, -1])
    state, *tokens = node.inputs
    query, key, value, *rates = (bench.add("Reshape", [each, flat], at=node) for each in tokens)
    results, left = bench.add(
        LINEAR_ATTENTION,
        [query, key, value, state, *rates],
        (None, node.outputs[0]),
        domain=CONTRIB,
        at=node,
        q_num_heads=heads,
        kv_num_heads=heads,
        update_rule="gated_delta" if len(rates) > 1 else "gated",
        scale=1.0,
    )
    apart = bench.constant([0, 0, heads, -1])
    return left, bench.add("Reshape", [results, apart], (node.outputs[1],), at=node)


def _sources(node: Node) -> list[Value]:
    """The products that the operands of ``node`` are made of."""
    found: dict[Value, None] = {}
    seen: set[Value] = set()
    waiting = list(node.inputs)
    while waiting:
        value = waiting.pop()
        before = value.producer() if value is not None else None
        if before is None or value in seen:
            continue
        seen.add(value)
        if before.op_type in PRODUCTS:
            found[value] = None
        else:
            waiting += before.inputs
    return list(found)
