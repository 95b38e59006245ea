"""An attention read off its Softmax, in whatever way it is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from awqc.fusion.onnx_values import Node, Value, dims, maker, only_reader, scalar, with_scalar
from awqc.fusion.truths import always, hides_nothing

VERY_LOW = -1e4
"""What is not above this hides: no score of a model that works comes near it."""
KEYS = 3
"""Axes of scores at least: of rows or heads, tokens and keys."""
LAYOUT = ("Reshape", "Transpose", "Unsqueeze", "Squeeze", "Expand", "Cast")


class Apart(Exception):  # noqa: N818 - it is a reason, no error
    """Why an attention stays as it is."""


@dataclass(frozen=True)
class Scores:
    """What a Softmax reads: ``cap * tanh(scale * q k / cap) + biases``, and a sink behind it.

    Attributes:
        biases: the last that is added first.
        cap: 0 where there is none.
        hidden: true where scores are the lowest number instead.
        sink: a score for each head, which takes its share of the weights and gives nothing for it.
    """

    product: Node
    biases: tuple[Value, ...]
    scale: float
    cap: float
    hidden: tuple[Value, ...] = ()
    sink: Value | None = None


@dataclass(frozen=True)
class Result:
    """What an attention makes.

    Attributes:
        value: heads beside each other if the graph puts them so, else apart.
        heads_first: whether heads that are apart come before tokens.
        seeing: ``(batch, 1, tokens, 1)``, false where a token sees nothing and its result is zero,
            where the graph makes it so.
    """

    value: Value
    heads_first: bool
    seeing: Value | None


def softmaxes(graph: Any) -> list[Node]:
    """The Softmax nodes over keys: what weighs ``(tokens, choices)``, as a router does, is none."""
    return [
        node for node in graph
        if node.op_type == "Softmax" and len(dims(node.outputs[0]) or [0] * KEYS) >= KEYS
    ]  # fmt: skip


def read_scores(value: Value) -> Scores:
    """What a Softmax reads, back to the product of queries and keys.

    Raises:
        Apart: it is something else.
    """
    value, sink = _without_sink(value)
    value = _without_floor(value)
    biases: list[Value] = []
    hidden: list[Value] = []
    while (node := _adds(value)) is not None:
        if node.op_type == "Where":
            hidden.append(node.inputs[0])
            value = node.inputs[2]
            continue
        sides = [each for each in node.inputs if _leads_to_product(each)]
        if len(sides) != 1:
            raise Apart("what is added to its scores is not a mask")
        value, bias = sides[0], next(each for each in node.inputs if each is not sides[0])
        if not hides_nothing(bias):
            biases.append(bias)
    value, factor = through(value)
    cap = 0.0
    if (bent := maker(value, "Tanh")) is not None:
        cap = factor
        value, factor = through(bent.inputs[0])
        factor *= cap
    product = maker(value, "MatMul")
    if product is None:
        raise Apart("its scores are not a product of queries and keys, scaled and masked")
    return Scores(product, tuple(biases), factor, cap, tuple(hidden), sink)


def _without_floor(value: Value) -> Value:
    """Scores before a maximum with a number so low that it changes what is hidden alone."""
    inner, factor = through(value)
    node = maker(inner, "Max")
    if node is None or factor != 1.0 or len(node.inputs) != 2:
        return value
    first, second = node.inputs
    for each, other in ((first, second), (second, first)):
        lowest = scalar(each)
        if lowest is not None and lowest <= VERY_LOW:
            return other
    return value


def _without_sink(value: Value) -> tuple[Value, Value | None]:
    """Scores before a sink was put behind them, and the sink.

    before:  Softmax(x - max(x))    x = Concat(scores, sink)
    """
    shifted = maker(value, "Sub")
    largest = maker(shifted.inputs[1], "ReduceMax") if shifted is not None else None
    if largest is not None and largest.inputs[0] is shifted.inputs[0]:
        value = shifted.inputs[0]
    node = maker(value, "Concat")
    if node is None or len(node.inputs) != 2 or node.attributes.get_int("axis", 0) not in (-1, 3):
        return value, None
    sink, _ = through(node.inputs[1])
    return (node.inputs[0], sink) if sink.const_value is not None else (value, None)


def _adds(value: Value) -> Node | None:
    """The node that adds to the scores, or hides some, behind changes of layout; None if none
    does."""
    node = maker(value)
    while node is not None and node.op_type in LAYOUT:
        value = node.inputs[0]
        node = maker(value)
    if node is None:
        return None
    if node.op_type == "Where":
        lowest = scalar(node.inputs[1])
        hides = lowest is not None and lowest <= VERY_LOW
        return node if hides and _leads_to_product(node.inputs[2]) else None
    return node if node.op_type == "Add" and with_scalar(node) is None else None


def _leads_to_product(value: Value) -> bool:
    while (node := maker(value)) is not None and node.op_type != "MatMul":
        if node.op_type == "Tanh" or node.op_type in LAYOUT:
            value = node.inputs[0]
        elif node.op_type in ("Mul", "Div") and (found := with_scalar(node)) is not None:
            value = found[0]
        elif node.op_type == "Where":
            value = node.inputs[2]
        elif node.op_type == "Add":
            return any(_leads_to_product(each) for each in node.inputs)
        else:
            return False
    return node is not None


def through(value: Value, ops: tuple[str, ...] = LAYOUT) -> tuple[Value, float]:
    """What ``value`` is before ``ops`` and factors, and the product of the factors."""
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


def product_with_values(weights: Value, *, sink: bool = False) -> Node:
    """The product of what a Softmax makes with the values, behind changes of layout.

    The weight of a ``sink``, the last, is cut off before it.

    Raises:
        Apart: something else reads the weights.
    """
    value, moves = weights, (*LAYOUT, "Slice") if sink else LAYOUT
    while (node := only_reader(value)) is not None and node.op_type in moves:
        value = node.outputs[0]
    if node is None or node.op_type != "MatMul" or node.inputs[0] is not value:
        raise Apart("its weights are read by something else than the product with the values")
    return node


def read_result(value: Value, heads: int, width: int) -> Result:
    """The result of an attention whose product with the values is ``value``.

    Raises:
        Apart: no value behind the product has heads and tokens apart, or heads beside each other.
    """
    found = seeing = None
    first, found_first = True, True
    while True:
        sizes = dims(value) or []
        if sizes[2:] in ([heads * width], [heads, width]) or sizes[1::2] == [heads, width]:
            found, found_first = value, first
        node = only_reader(value)
        if node is None or sizes[2:] == [heads * width]:
            break
        masked = node.op_type == "Where" and node.inputs[1] is value
        if node.op_type not in LAYOUT and not (masked and scalar(node.inputs[2]) == 0):
            break
        placed = masked and (dims(node.inputs[0]) or [])[1::2] == [1, 1]
        if placed and not always(node.inputs[0]):
            seeing = node.inputs[0]
        first = first != (node.op_type == "Transpose")
        value = node.outputs[0]
    if found is None:
        raise Apart("its result is in a layout that is not known")
    return Result(found, found_first, seeing)


def heads_of(value: Value) -> tuple[int, int]:
    """Heads and width of ``(batch, heads, tokens, width)``.

    Raises:
        Apart: it has other sizes.
    """
    sizes = dims(value) or []
    if len(sizes) == 4 and isinstance(sizes[1], int) and isinstance(sizes[3], int):
        return sizes[1], sizes[3]
    raise Apart(f"{value.name} is not (batch, heads, tokens, width)")
