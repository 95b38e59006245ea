"""Attention without a cache in one kernel: of encoders, and of decoders to an encoder's states."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from awqc.fusion.heads import HEADS_FIRST, apart, flat, turned
from awqc.fusion.masks import added, zeroed
from awqc.fusion.onnx_values import Node, Value, dims, maker
from awqc.fusion.rotations import fuse_rotary
from awqc.fusion.scores import (
    Apart,
    Result,
    heads_of,
    product_with_values,
    read_result,
    read_scores,
    softmaxes,
    through,
)
from awqc.fusion.workbench import CONTRIB, Workbench
from awqc.targets.base import ATTENTION

LAST_SWAPPED = [0, 1, 3, 2]
"""Of keys ``(batch, heads, tokens, width)``, as a product takes them."""
HEADS_THEN_WIDTH = [0, 2, 3, 1]
"""The same of ``(batch, tokens, heads, width)``."""


@dataclass(frozen=True)
class Attention:
    """An attention whose keys and values are all there.

    Attributes:
        query: ``(batch, heads, tokens, width)``.
        key: ``(batch, heads, keys, width)``; ``value`` likewise.
        result: ``(batch, heads, tokens, width)`` or in another layout.
        biases: what is added to the scores, minus infinity where nothing is seen.
        hidden: true where nothing is seen.
    """

    query: Value
    key: Value
    value: Value
    result: Result
    biases: tuple[Value, ...]
    hidden: tuple[Value, ...]
    scale: float


def fuse_attention(bench: Workbench) -> None:
    """Attention without a cache, its scale and what is added to its scores in one.

    before:  o = MatMul(Softmax(MatMul(q * scale, k^T) + bias), v)
    after:   o = MultiHeadAttention(q, k, v, bias)

    Whatever is added to the scores stays what it is: padding, windows, places. Where a token sees
    nothing the graph's own zeros stay too.
    """
    if ATTENTION not in bench.target.fused:
        return
    for node in softmaxes(bench.graph):
        if str(node.name) in bench.apart:
            continue
        try:
            _fuse(bench, _match(bench, node))
        except Apart as reason:
            bench.apart[str(node.name)] = str(reason)


def _fuse(bench: Workbench, found: Attention) -> None:
    query = flat(bench, fuse_rotary(bench, found.query), heads_first=True)
    source, factor = through(query.value, ())
    keys = [fuse_rotary(bench, found.key), found.value]
    if any(turned(each) for each in keys):
        read = [flat(bench, each, heads_first=True) for each in keys]
        keys, stops = [each.value for each in read], [each.origin for each in read]
    else:  # as they are: states that are handed in
        stops = keys
    inputs = [source, *keys, None, None, added(bench, found.biases, found.query, found.hidden)]
    while inputs[-1] is None:
        inputs.pop()
    attributes: dict[str, Any] = {
        "num_heads": heads_of(found.query)[0],
        "scale": found.scale * factor,
    }
    result = bench.add(ATTENTION, inputs, (None,), domain=CONTRIB, **attributes)
    if found.result.seeing is not None:
        result = zeroed(bench, result, found.result.seeing, found.query.dtype.numpy())
    made = apart(bench, result, found.result.value, heads_first=found.result.heads_first)
    origin = source if source is not query.value else query.origin
    why = bench.switch(ATTENTION, {found.result.value: made}, [origin, *stops])
    if why is not None:
        raise Apart(f"{ATTENTION} does not compute the same: {why}")


def _match(bench: Workbench, softmax: Node) -> Attention:
    scores = read_scores(softmax.inputs[0])
    if scores.sink is not None:
        raise Apart(f"its scores have a sink, which {ATTENTION} has not")
    if scores.cap:
        raise Apart(f"its scores have a soft cap, which {ATTENTION} has not")
    product = product_with_values(softmax.outputs[0])
    query, factor = _heads_apart(scores.product.inputs[0])
    keys, turning = _keys(bench, scores.product.inputs[1])
    key, own = _heads_apart(keys)
    value, _ = _heads_apart(product.inputs[1])
    heads, width = heads_of(query)
    if {heads_of(key), heads_of(value)} != {(heads, width)}:
        raise Apart("its keys or values have other heads than its queries")
    result = read_result(product.outputs[0], heads, width)
    scale = scores.scale * factor * own * turning
    return Attention(query, key, value, result, scores.biases, scores.hidden, scale)


def _keys(bench: Workbench, value: Value) -> tuple[Value, float]:
    """Keys as they were before they were turned for the product, and what scales them then.

    ``value`` is that side of the product.
    """
    value, factor = through(value, ())
    node = maker(value, "Transpose")
    order = list(node.attributes["perm"].as_ints()) if node is not None else []
    if order == LAST_SWAPPED:
        return node.inputs[0], factor
    sizes = dims(value) or []
    if len(sizes) != len(LAST_SWAPPED):
        raise Apart(f"its keys {value.name} are not (batch, heads, width, keys)")
    source, order = (
        (node.inputs[0], HEADS_FIRST) if order == HEADS_THEN_WIDTH else (value, LAST_SWAPPED)
    )
    made: Value = bench.add("Transpose", [source], perm=order)
    made.type, made.shape = value.type, ir.Shape([sizes[place] for place in LAST_SWAPPED])
    return made, factor


def _heads_apart(value: Value) -> tuple[Value, float]:
    """``(batch, heads, tokens, width)`` behind changes of shape and factors, and these."""
    factor = 1.0
    while True:
        value, each = through(value, ())
        factor *= each
        node = maker(value, "Reshape")
        if node is None or len(dims(value) or []) == len(HEADS_FIRST):
            return value, factor
        value = node.inputs[0]
