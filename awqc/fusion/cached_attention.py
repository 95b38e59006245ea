"""Attention with its cache, in one kernel that can keep the cache where it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from awqc.fusion.heads import apart, flat
from awqc.fusion.onnx_values import (
    Node,
    Value,
    dims,
    maker,
    only_reader,
    scalar,
    with_scalar,
)
from awqc.fusion.rotations import fuse_rotary
from awqc.fusion.workbench import CONTRIB, Workbench
from awqc.kv_cache import PAST

ATTENTION = "GroupQueryAttention"
INT32 = 6
WIDTH_STEP = 8
"""The kernel takes heads whose width this divides."""
LAYOUT = ("Reshape", "Transpose", "Unsqueeze", "Squeeze", "Expand", "Cast")


class Apart(Exception):  # noqa: N818 - it is a reason, no error
    """Why an attention stays as it is."""


@dataclass(frozen=True)
class Scores:
    """What a Softmax reads: ``cap * tanh(scale * q k / cap) + bias``."""

    product: Node
    bias: Value | None
    scale: float
    cap: float


@dataclass(frozen=True)
class Attention:
    """An attention with its cache.

    Attributes:
        query: ``(batch, heads, tokens, width)``.
        keys: node that joins the past keys ``(batch, own heads, past, width)`` and the new.
        values: node that joins the values likewise.
        result: heads apart, or beside each other.
        bias: what is added to the scores, minus infinity where nothing is seen.
        seeing: ``(batch, 1, tokens, 1)``, false where a token sees nothing and its result is zero,
            where the graph makes it so.
    """

    query: Value
    keys: Node
    values: Node
    result: Value
    bias: Value | None
    scale: float
    cap: float
    seeing: Value | None = None


def fuse_attention(bench: Workbench) -> None:
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
    for node in list(bench.graph):
        if node.op_type != "Softmax":
            continue
        try:
            _fuse(bench, _match(node))
        except Apart as reason:
            bench.apart[str(node.name)] = str(reason)


def _fuse(bench: Workbench, found: Attention) -> None:
    (past_key, key), (past_value, value) = found.keys.inputs, found.values.inputs
    turned = [fuse_rotary(bench, each) for each in (found.query, key)]
    read = [flat(bench, each) for each in (*turned, value)]
    inputs = [*(each.value for each in read), past_key, past_value, *_lengths(bench, found)]
    inputs += (
        [None, None, None, _spread(bench, found.bias, found.query)]
        if found.bias is not None
        else []
    )
    kept = found.keys.outputs[0], found.values.outputs[0]
    attributes: dict[str, Any] = {
        "num_heads": _heads(found.query)[0],
        "kv_num_heads": _heads(key)[0],
        "scale": found.scale,
    }
    if found.cap:
        attributes["softcap"] = found.cap
    result, keys, values = bench.add(
        ATTENTION, inputs, (None, *kept), domain=CONTRIB, at=found.keys, **attributes
    )
    result = _zeroed(bench, result, found)
    new = {found.result: apart(bench, result, found.result), kept[0]: keys, kept[1]: values}
    why = bench.switch(ATTENTION, new, [each.origin for each in read])
    if why is not None:
        raise Apart(f"{ATTENTION} does not compute the same: {why}")


def _match(softmax: Node) -> Attention:
    scores = _scores(softmax.inputs[0])
    keys = _joined(_through(scores.product.inputs[1])[0])
    product = _product(softmax.outputs[0])
    values = _joined(_through(product.inputs[1])[0])
    query, factor = _through(scores.product.inputs[0], ("Reshape",))
    _, own = _through(scores.product.inputs[1])
    heads, width = _heads(query)
    if (width, width) != (_heads(keys.inputs[1])[1], _heads(values.inputs[1])[1]):
        raise Apart("its keys and values have other widths than its queries")
    if width % WIDTH_STEP:
        raise Apart(f"heads of {width}; {ATTENTION} takes multiples of {WIDTH_STEP}")
    if heads % _heads(keys.inputs[1])[0]:
        raise Apart("its heads cannot be shared out among those of the keys")
    scale = scores.scale * factor * own
    result, seeing = _result(product.outputs[0], heads, width)
    return Attention(query, keys, values, result, scores.bias, scale, scores.cap, seeing)


def _scores(value: Value) -> Scores:
    """What a Softmax reads, back to the product of queries and keys."""
    bias = None
    node = maker(value, "Add")
    if node is not None and with_scalar(node) is None:
        sides = [each for each in node.inputs if _leads_to_product(each)]
        if len(sides) != 1:
            raise Apart("what is added to its scores is not a mask")
        value, bias = sides[0], next(each for each in node.inputs if each is not sides[0])
    value, factor = _through(value)
    cap = 0.0
    if (bent := maker(value, "Tanh")) is not None:
        cap = factor
        value, factor = _through(bent.inputs[0])
        factor *= cap
    product = maker(value, "MatMul")
    if product is None:
        raise Apart("its scores are not a product of queries and keys, scaled and masked")
    return Scores(product, bias, factor, cap)


def _leads_to_product(value: Value) -> bool:
    while (node := maker(value)) is not None and node.op_type != "MatMul":
        if node.op_type == "Tanh" or node.op_type in LAYOUT:
            value = node.inputs[0]
        elif node.op_type in ("Mul", "Div") and (found := with_scalar(node)) is not None:
            value = found[0]
        else:
            return False
    return node is not None


def _through(value: Value, ops: tuple[str, ...] = LAYOUT) -> tuple[Value, float]:
    """What ``value`` is before changes of layout and factors, and the product of the factors."""
    factor = 1.0
    while (node := maker(value)) is not None:
        if node.op_type in ops:
            value = node.inputs[0]
        elif node.op_type in ("Mul", "Div") and (found := with_scalar(node)) is not None:
            value = found[0]
            factor = factor * found[1] if node.op_type == "Mul" else factor / found[1]
        else:
            break
    return value, factor


def _joined(value: Value) -> Node:
    """The node that joins a past and what is new."""
    node = maker(value, "Concat")
    past = node.inputs[0] if node is not None else None
    if past is None or not past.is_graph_input() or not str(past.name).startswith(PAST):
        raise Apart("it reads no cache that the model takes and gives back")
    if len(node.inputs) != 2 or node.attributes.get_int("axis", 0) not in (-2, 2):
        raise Apart("its cache is joined along another axis than that of the tokens")
    return node


def _product(value: Value) -> Node:
    """The product with the values, behind changes of layout."""
    while (node := only_reader(value)) is not None and node.op_type in LAYOUT:
        value = node.outputs[0]
    if node is None or node.op_type != "MatMul" or node.inputs[0] is not value:
        raise Apart("its weights are read by something else than the product with the values")
    return node


def _zeroed(bench: Workbench, result: Value, found: Attention) -> Value:
    """``result``, of heads beside each other, zero where a token sees nothing.

    In float32 the kernel makes it so where all that is added is the lowest number; in half it
    adds that as any other.
    """
    if found.seeing is None or found.query.dtype == ir.DataType.FLOAT:
        return result
    key = ("seeing", found.seeing)
    if key not in bench.shared:
        bench.shared[key] = bench.add("Squeeze", [found.seeing, bench.constant([1])])
    zero = bench.constant(0, found.query.dtype.numpy())
    made: Value = bench.add("Where", [bench.shared[key], result, zero])
    return made


def _result(value: Value, heads: int, width: int) -> tuple[Value, Value | None]:
    """The result, with heads beside each other if the graph puts them so, and what it is zero by.

    The latter is a condition ``(batch, 1, tokens, 1)``.
    """
    found = seeing = None
    while True:
        sizes = dims(value) or []
        if sizes[2:] in ([heads * width], [heads, width]) or sizes[1::2] == [heads, width]:
            found = value
        node = only_reader(value)
        if node is None or sizes[2:] == [heads * width]:
            break
        masked = node.op_type == "Where" and node.inputs[1] is value
        if node.op_type not in LAYOUT and not (masked and scalar(node.inputs[2]) == 0):
            break
        if masked and (dims(node.inputs[0]) or [])[1::2] == [1, 1]:
            seeing = node.inputs[0]
        value = node.outputs[0]
    if found is None:
        raise Apart("its result is in a layout that is not known")
    return found, seeing


def _heads(value: Value) -> tuple[int, int]:
    """Heads and width of ``(batch, heads, tokens, width)``."""
    sizes = dims(value) or []
    if len(sizes) == 4 and isinstance(sizes[1], int) and isinstance(sizes[3], int):
        return sizes[1], sizes[3]
    raise Apart(f"{value.name} is not (batch, heads, tokens, width)")


def _spread(bench: Workbench, mask: Value, query: Value) -> Value:
    """A mask that is added, with a row for each token, ``(batch or 1, heads or 1, tokens, keys)``.

    Where nothing is seen it is the lowest number, which the kernel takes for that: minus infinity
    makes NaN of a row of one token that is padding itself.
    """
    sizes, wanted = dims(mask), dims(query)
    if sizes is None or wanted is None or len(sizes) != 4:
        raise Apart("the sizes of its mask are not known")
    key = ("mask", mask)
    if key not in bench.shared:
        kind = mask.dtype.numpy()
        bias = bench.add("Max", [mask, bench.constant(np.finfo(kind).min, kind)])
        if sizes[2] != wanted[2]:
            tokens = bench.size(query, 2)
            ones = bench.constant([1])
            shape = bench.add("Concat", [ones, ones, tokens, ones], axis=0)
            bias = bench.add("Expand", [bias, shape])
        bench.shared[key] = bias
    return bench.shared[key]


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
