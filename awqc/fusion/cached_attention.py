"""Attention with its cache, in one kernel that can keep the cache where it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from awqc.fusion.heads import apart, flat
from awqc.fusion.masks import added, zeroed
from awqc.fusion.onnx_values import Node, Value, maker
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
from awqc.kv_cache import PAST
from awqc.targets.base import CACHED_ATTENTION

INT32 = 6
WIDTH_STEP = 8
"""The kernel takes heads whose width this divides."""


@dataclass(frozen=True)
class Attention:
    """An attention with its cache.

    Attributes:
        query: ``(batch, heads, tokens, width)``.
        keys: node that joins the past keys ``(batch, own heads, past, width)`` and the new.
        values: node that joins the values likewise.
        biases: what is added to the scores, minus infinity where nothing is seen.
        hidden: true where nothing is seen.
        sink: a score for each head that takes its share of the weights.
    """

    query: Value
    keys: Node
    values: Node
    result: Result
    biases: tuple[Value, ...]
    scale: float
    cap: float
    hidden: tuple[Value, ...]
    sink: Value | None


def fuse_cached_attention(bench: Workbench) -> None:
    """Attention, its cache, grouped heads, scale, soft cap and mask in one.

    before:  k, v = Concat(past_k, k'), Concat(past_v, v')
             o = MatMul(Softmax(MatMul(q * scale, k^T) + bias), v)
    after:   o, k, v = GroupQueryAttention(q, k', v', past_k, past_v, lengths, bias)

    The kernel lets no token look ahead; whatever else the mask hides (padding, what is out of a
    window) is in ``bias``, which the graph makes once for all layers, so that the result is the
    same for every mask that does not look ahead. Positions are turned into q and k' before, by
    `awqc.fusion.rotations`, as the kernel's own rotation counts positions from the first token of
    a row, padded or not.
    """
    if CACHED_ATTENTION not in bench.target.fused:
        return
    for node in softmaxes(bench.graph):
        try:
            if (found := _match(node)) is not None:
                _fuse(bench, found)
        except Apart as reason:
            bench.apart[str(node.name)] = str(reason)


def _fuse(bench: Workbench, found: Attention) -> None:
    (past_key, key), (past_value, value) = found.keys.inputs, found.values.inputs
    turned = [fuse_rotary(bench, each) for each in (found.query, key)]
    read = [flat(bench, each) for each in (*turned, value)]
    inputs = [*(each.value for each in read), past_key, past_value, *_lengths(bench, found)]
    inputs += [None, None, None, added(bench, found.biases, found.query, found.hidden)]
    if found.sink is not None:
        inputs.append(bench.constant(found.sink.const_value.numpy().reshape(-1), _kind(found)))
    while inputs[-1] is None:
        inputs.pop()
    kept = found.keys.outputs[0], found.values.outputs[0]
    attributes: dict[str, Any] = {
        "num_heads": heads_of(found.query)[0],
        "kv_num_heads": heads_of(key)[0],
        "scale": found.scale,
    }
    if found.cap:
        attributes["softcap"] = found.cap
    result, keys, values = bench.add(
        CACHED_ATTENTION, inputs, (None, *kept), domain=CONTRIB, at=found.keys, **attributes
    )
    if found.result.seeing is not None and found.query.dtype != ir.DataType.FLOAT:
        # in float32 the kernel makes zeros where all that is added is the lowest number
        result = zeroed(bench, result, found.result.seeing, _kind(found))
    made = apart(bench, result, found.result.value, heads_first=found.result.heads_first)
    new = {found.result.value: made, kept[0]: keys, kept[1]: values}
    stops = [each.origin for each in read]
    why = bench.why_not(new, stops)
    if why is not None and bench.why_not(new, stops, padding=False) is None:
        why = None  # tokens that see nothing are padding themselves, which nothing reads
        bench.padding_differs = True
    if why is None:
        bench.put(CACHED_ATTENTION, new)
    else:
        raise Apart(f"{CACHED_ATTENTION} does not compute the same: {why}")


def _kind(found: Attention) -> np.dtype[np.generic]:
    kind: np.dtype[np.generic] = found.query.dtype.numpy()
    return kind


def _match(softmax: Node) -> Attention | None:
    """The attention of ``softmax``; None if it reads no cache."""
    scores = read_scores(softmax.inputs[0])
    keys = _joined(through(scores.product.inputs[1])[0])
    product = product_with_values(softmax.outputs[0], sink=scores.sink is not None)
    values = _joined(through(product.inputs[1])[0])
    if keys is None or values is None:
        return None
    query, factor = through(scores.product.inputs[0], ("Reshape",))
    _, own = through(scores.product.inputs[1])
    heads, width = heads_of(query)
    if (width, width) != (heads_of(keys.inputs[1])[1], heads_of(values.inputs[1])[1]):
        raise Apart("its keys and values have other widths than its queries")
    if width % WIDTH_STEP:
        raise Apart(f"heads of {width}; {CACHED_ATTENTION} takes multiples of {WIDTH_STEP}")
    if heads % heads_of(keys.inputs[1])[0]:
        raise Apart("its heads cannot be shared out among those of the keys")
    scale = scores.scale * factor * own
    result = read_result(product.outputs[0], heads, width)
    sink = scores.sink
    if sink is not None and sink.const_value.size != heads:
        raise Apart("what stands behind its scores is not one number for each head")
    return Attention(
        query, keys, values, result, scores.biases, scale, scores.cap, scores.hidden, sink
    )


def _joined(value: Value) -> Node | None:
    """The node that joins a past, which the model takes and gives back, and what is new, if any."""
    node = maker(value, "Concat")
    past = node.inputs[0] if node is not None else None
    if past is None or not past.is_graph_input() or not str(past.name).startswith(PAST):
        return None
    if len(node.inputs) != 2 or node.attributes.get_int("axis", 0) not in (-2, 2):
        raise Apart("its cache is joined along another axis than that of the tokens")
    return node


def _lengths(bench: Workbench, found: Attention) -> tuple[Value, Value]:
    """Of each row the last place that is filled, and the number of places; int32.

    The number of places is the size of an input that covers past and new tokens, if there is
    one: a cache that is shared is larger. Else it is the past's and the new tokens', never that
    of what is made.
    """
    if "lengths" not in bench.shared:
        past, new = found.keys.inputs
        whole = found.keys.outputs[0]
        if bench.counting(whole, 2) is not None:
            places = bench.size(whole, 2)
        else:
            places = bench.add("Add", [bench.size(past, 2), bench.size(new, 2)])
        total = bench.add("Cast", [places], to=INT32)
        last = bench.add("Sub", [total, bench.constant([1], "int32")])
        rows = bench.size(found.keys.inputs[1], 0)
        bench.shared["lengths"] = bench.add("Expand", [last, rows]), total
    lengths, total = bench.shared["lengths"]
    return lengths, total
