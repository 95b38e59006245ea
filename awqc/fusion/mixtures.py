"""Experts, of which each token is sent to a few, as one operation that computes only these."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from awqc.fusion.onnx_values import Node, Value, ancestors, dims, maker, only_reader, readers
from awqc.fusion.workbench import CONTRIB, Workbench
from awqc.numerics.onnx_types import ROWS_OF
from awqc.targets.base import EXPERTS, PRODUCT

Array = NDArray[Any]
PICKING = frozenset({"Gather", "GatherND", "GatherElements"})
MOVING = PICKING | {"Reshape", "Unsqueeze", "Squeeze", "Cast"}
"""Operations whose first operand has the numbers; the others say where they go."""
BETWEEN = MOVING | {"Mul", "ScatterND", "ScatterElements"}
"""What stands between the sum over experts and that over the experts of a token."""
CODES, ZERO_POINT = 1, 3
PARTS = ("packed", "block_scale", "block_zero_point")
"""Operands of a product: the first and the last of its weight, and what ends their names."""
LARGEST = 2**29
"""Bytes of codes of one layer at the most, of which both forms hold a copy while they are run."""


@dataclass(frozen=True)
class ProductRows:
    """ProductRows of a low-bit product: what a part of its result is made with."""

    product: Node
    start: int
    stop: int

    def part(self, operand: int) -> Callable[[], Array]:
        """What reads ``(rows, numbers)`` of codes, scales or zero points, also when the product is
        not there any more."""
        count = self.product.attributes.get_int("N")
        whole, taken = self.product.inputs[operand].const_value, slice(self.start, self.stop)
        return lambda: np.asarray(whole.numpy().reshape(count, -1)[taken])


@dataclass(frozen=True)
class Expert:
    """``down(silu(gate) * up)``."""

    gate: ProductRows
    up: ProductRows
    down: ProductRows


@dataclass(frozen=True)
class Experts:
    """What one operation can compute.

    Attributes:
        each: the experts, in order.
        source: ``(tokens, width)``, what they read.
        chosen: ``(tokens, k)``, which experts each token is sent to, and with what ``weights``.
        result: ``(tokens, width)``.
    """

    each: tuple[Expert, ...]
    source: Value
    chosen: Value
    weights: Value
    result: Value


def fuse_experts(bench: Workbench) -> None:
    """All experts of a layer in one, each computing the tokens alone that are sent to it.

    before:  c, i = TopK(r(x));  rows = x[token of each choice]
             y_e = MatMulNBits(silu(g) * u),  g, u = MatMulNBits(rows)       for each expert e
             y = sum over k of  w * (sum over e of  where(i == e, y_e, 0))
    after:   y = QMoE(x, scatter(1 at i), [g u], down, scatter(w at i))

    Without it each expert computes all rows, of which one in as many as there are experts is read.
    How choices are sorted and their results brought back is not looked at: the proof is on the
    whole layer, router included.
    """
    if EXPERTS not in bench.target.fused:
        return
    for total, leaves in list(_sums(bench.graph)):
        each = [_expert(leaf) for leaf in leaves]
        if None in each:
            continue
        found = _layer(tuple(one for one in each if one is not None), total)
        why = found if isinstance(found, str) else _unfit(found.each) or _fuse(bench, found)
        if why is not None:
            bench.apart[str(total.name)] = why


def _sums(graph: Any) -> Iterator[tuple[Value, list[Value]]]:
    """Every sum of several values, with these in order."""
    inner: set[Node] = set()
    for node in reversed(list(graph)):
        if node.op_type != "Add" or node in inner:
            continue
        leaves, waiting = [], [node.outputs[0]]
        while waiting:
            value = waiting.pop()
            before = maker(value, "Add")
            if before is None or (before is not node and only_reader(value) is None):
                leaves.append(value)
            else:
                inner.add(before)
                waiting += reversed(before.inputs)
        yield node.outputs[0], leaves


def _expert(masked: Value) -> Expert | None:
    """The expert whose result ``masked`` is where a mask is true, and zero elsewhere."""
    where = maker(masked, "Where")
    down = _rows(where.inputs[1]) if where is not None else None
    middle = maker(down.product.inputs[0], "Mul") if down is not None else None
    if down is None or middle is None or down.stop - down.start != _width(down):
        return None
    for active, other in (middle.inputs, reversed(middle.inputs)):
        gate, up = _rows(_silu(active)), _rows(other)
        if gate is not None and up is not None:
            return Expert(gate, up, down)
    return None


def _silu(value: Value) -> Value | None:
    """``x`` of ``x * sigmoid(x)``."""
    product = maker(value, "Mul")
    for x, factor in () if product is None else (product.inputs, reversed(product.inputs)):
        sigmoid = maker(factor, "Sigmoid")
        if sigmoid is not None and sigmoid.inputs[0] is x:
            return x
    return None


def _rows(value: Value | None) -> ProductRows | None:
    """What makes ``value``, along its last axis, of a low-bit product."""
    node = maker(value, PRODUCT, "Split")
    if node is None or value is None:
        return None
    if node.op_type == PRODUCT:
        return ProductRows(node, 0, node.attributes.get_int("N"))
    whole, rank = _rows(node.inputs[0]), len(dims(value) or [])
    if whole is None or node.attributes.get_int("axis", 0) not in (-1, rank - 1):
        return None
    sizes = _split_sizes(node, whole.stop - whole.start)
    if sizes is None:
        return None
    start = whole.start + sum(sizes[: value.index()])
    return ProductRows(whole.product, start, start + sizes[value.index()])


def _split_sizes(split: Node, width: int) -> list[int] | None:
    if len(split.inputs) > 1 and split.inputs[1] is not None:
        sizes = split.inputs[1].const_value
        return None if sizes is None else [int(size) for size in sizes.numpy()]
    count = len(split.outputs)
    return None if width % count else [width // count] * count


def _layer(each: tuple[Expert, ...], total: Value) -> Experts | str:
    """The layer whose experts ``total`` adds up, or why there is none."""
    read = {rows.product.inputs[0] for one in each for rows in (one.gate, one.up)}
    if len(read) > 1:
        return "the experts read different values"
    source = _back(read.pop(), PICKING)
    result, weights = _added(total)
    if result is None or weights is None:
        return "what adds up the experts of a token was not found"
    chosen, weights = _chosen(result, source), _back(weights, MOVING)
    if chosen is None or len(dims(chosen) or []) != 2 or dims(weights) != dims(chosen):
        return "what chooses them, or what they are weighed with, has not a row for each token"
    if dims(source) != dims(result):
        return "what comes out is not as wide as what goes in"
    return Experts(each, source, chosen, weights, result)


def _chosen(result: Value, source: Value) -> Value | None:
    """Numbers of experts: what is sorted to bring rows of one together, or what a top-k gives."""
    chosen = None
    for node in ancestors([result], {source}):
        if node.op_type == "TopK" and node.inputs[0].dtype.is_integer():
            return _back(node.inputs[0], MOVING)
        if node.op_type == "TopK":
            chosen = node.outputs[1]
    return chosen


def _back(value: Value, operations: frozenset[str]) -> Value:
    """What ``value`` was before ``operations`` moved its numbers."""
    while (node := maker(value, *operations)) is not None:
        value = node.inputs[0]
    return value


def _added(total: Value) -> tuple[Value | None, Value | None]:
    """The sum over the experts of each token, and what ``total`` is multiplied with before it."""
    weights, value = None, total
    while (node := only_reader(value)) is not None and node.op_type in BETWEEN:
        if node.op_type == "Mul":
            weights = next(each for each in node.inputs if each is not value)
        value = node.outputs[0]
    added = [each for each in readers(value) if each.op_type == "ReduceSum"]
    return (added[0].outputs[0] if len(added) == 1 else None), weights


def _unfit(each: tuple[Expert, ...]) -> str | None:
    """Why one operation cannot take these weights, or None."""
    products = [rows.product for one in each for rows in (one.gate, one.up, one.down)]
    if any(operand is not None for node in products for operand in node.inputs[ZERO_POINT + 1 :]):
        return "an expert adds a vector"
    kinds = {
        (*(node.attributes.get_int(name) for name in ("bits", "block_size")), _operands(node))
        for node in products
    }
    if len(kinds) > 1:
        return "the experts' weights have different widths or groups"
    block = products[0].attributes.get_int("block_size")
    if any(_columns(node) % block for node in products):
        return "groups do not fill the rows of the experts' weights"
    if len({(one.up.stop - one.up.start, _columns(one.down.product)) for one in each}) > 1:
        return "the experts are of different sizes"
    bytes_ = sum(node.inputs[CODES].const_value.nbytes for node in dict.fromkeys(products))
    if bytes_ > LARGEST:
        return f"its codes take {bytes_} bytes, and more than {LARGEST} are not compared"
    return None


def _operands(product: Node) -> tuple[int, ...]:
    """Places of the operands that a product has, from its codes on."""
    return tuple(n for n, each in enumerate(product.inputs) if n >= CODES and each is not None)


def _columns(product: Node) -> int:
    return int(product.attributes.get_int("K"))


def _width(rows: ProductRows) -> int:
    return int(rows.product.attributes.get_int("N"))


def _fuse(bench: Workbench, found: Experts) -> str | None:
    product = found.each[0].down.product
    kind, count = found.source.dtype, len(found.each)
    sizes = bench.add("Shape", [found.chosen])
    rows = bench.add("Shape", [found.chosen], start=0, end=1)
    number = kind.numpy()
    zeros = bench.add(
        "Expand",
        [bench.constant(0.0, number), bench.add("Concat", [rows, bench.constant([count])], axis=0)],
    )
    ones = bench.add("Expand", [bench.constant(1.0, number), sizes])
    chosen, weights = (
        bench.add("ScatterElements", [zeros, found.chosen, each], axis=1)
        for each in (ones, found.weights)
    )
    first, second = _stacked(bench, found.each)
    inputs = [found.source, chosen, first[0], first[1], None, second[0], second[1]]
    inputs += [*[None] * 4, first[2], second[2], None, weights]
    made = bench.add(
        EXPERTS,
        inputs,
        (found.result,),
        domain=CONTRIB,
        at=product,
        k=(dims(found.chosen) or [0])[-1],
        activation_type="swiglu",
        activation_alpha=1.0,
        activation_beta=0.0,
        swiglu_fusion=1,
        normalize_routing_weights=0,
        expert_weight_bits=product.attributes.get_int("bits"),
        block_size=product.attributes.get_int("block_size"),
        accuracy_level=product.attributes.get_int("accuracy_level", 0),
    )
    rows_of = {
        "2": [[_place(one.gate), _place(one.up)] for one in found.each],
        "5": [[_place(one.down)] for one in found.each],
    }
    made.producer().metadata_props[ROWS_OF] = json.dumps(rows_of)
    return bench.switch(EXPERTS, {found.result: made}, [found.source])


def _place(rows: ProductRows) -> tuple[str, int]:
    """The weight that ``rows`` are of, and the first of them there."""
    name, start = str(rows.product.inputs[CODES].name).removesuffix(f".{PARTS[0]}"), rows.start
    for weight, size in json.loads(rows.product.metadata_props.get(ROWS_OF, "[]")):
        if start < size:
            return str(weight), start
        start -= size
    return name, start


Stack = tuple[Value | None, ...]


def _stacked(bench: Workbench, each: tuple[Expert, ...]) -> tuple[Stack, Stack]:
    """Codes, scales and zero points of gates and ups, row by row in turns, and of downs."""
    product = each[0].down.product
    name = str(product.inputs[CODES].name).removesuffix(f".{PARTS[0]}")

    def stacked(what: str, number: int, pairs: Sequence[Sequence[ProductRows]]) -> Value:
        parts = [[rows.part(number) for rows in pair] for pair in pairs]

        def make() -> Array:
            turns = [np.stack([part() for part in pair], 1) for pair in parts]
            return np.stack([rows.reshape(-1, rows.shape[-1]) for rows in turns])

        return _lazy(bench, f"{name}.{what}.{PARTS[number - CODES]}", make)

    first, second = [], []
    for operand in _operands(product):
        first.append(stacked("gates_and_ups", operand, [(one.gate, one.up) for one in each]))
        second.append(stacked("downs", operand, [(one.down,) for one in each]))
    return (*first, None)[:ZERO_POINT], (*second, None)[:ZERO_POINT]


def _lazy(bench: Workbench, name: str, make: Callable[[], Array]) -> Value:
    """A weight that is put together when it is read, and not kept."""
    first = make()
    kind, shape = ir.DataType.from_numpy(first.dtype), ir.Shape(first.shape)
    tensor = ir.LazyTensor(
        lambda: ir.Tensor(make(), name=name), dtype=kind, shape=shape, name=name
    )  # fmt: skip
    value = ir.Value(name=name, type=ir.TensorType(kind), shape=shape, const_value=tensor)
    bench.graph.register_initializer(value)
    return value
