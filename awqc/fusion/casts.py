"""Casts between float32 and half out of the way of what is fused, exactly."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from awqc.fusion.onnx_values import Node, Value, maker
from awqc.fusion.workbench import Workbench

HALVES = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
MOVES = ("Concat", "Expand", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")
"""Operations that move elements of their first operand, or of all, and compute nothing."""
SMALL = 2**20
"""Elements of a constant up to which another copy of it costs little."""


def settle_casts(bench: Workbench) -> None:
    """Half precision before what is moved, and constants in the type in which they are read.

    before:  k = Cast(Concat(Cast(past, float), k'), half);  w' = Cast(w, float)
    after:   k = Concat(past, Cast(k', half));               w' a constant

    A cast commutes with what moves elements, and half that became float32 is half again: no number
    changes. It is done where a cast goes by that.
    """
    narrowed: dict[Any, Value] = {}
    for node in list(bench.graph):
        if node.op_type != "Cast":
            continue
        source, result = node.inputs[0], node.outputs[0]
        if source.const_value is not None and source.const_value.size <= SMALL:
            kind = ir.DataType(node.attributes["to"].as_int())
            made = bench.constant(source.const_value.numpy(), kind.numpy())
            result.type, result.shape = result.type or made.type, result.shape or made.shape
            bench.replace(result, made)
        elif result.dtype in HALVES and _goes(source, result.dtype):
            bench.replace(result, _narrow(bench, source, result.dtype, narrowed))


def _goes(value: Value, kind: Any) -> bool:
    """Whether ``value`` is float32 that was of ``kind``, some of it at least, and only moved."""
    node = maker(value)
    if node is None or value.dtype != ir.DataType.FLOAT:
        return False
    if node.op_type == "Cast":
        return bool(node.inputs[0].dtype == kind)
    return node.op_type in MOVES and any(_goes(each, kind) for each in _moved(node))


def _moved(node: Node) -> list[Value]:
    """The operands whose elements ``node`` moves."""
    return list(node.inputs) if node.op_type == "Concat" else [node.inputs[0]]


def _narrow(bench: Workbench, value: Value, kind: Any, known: dict[Any, Value]) -> Value:
    """``value`` in ``kind``, cast as early as may be."""
    if (value, kind) not in known:
        known[value, kind] = _narrowed(bench, value, kind, known)
    return known[value, kind]


def _narrowed(bench: Workbench, value: Value, kind: Any, known: dict[Any, Value]) -> Value:
    node = maker(value)
    if not _goes(value, kind):
        made: Value = bench.add("Cast", [value], (value,), at=node, to=int(kind))
    elif node.op_type == "Cast":
        return node.inputs[0]
    else:
        inputs = [_narrow(bench, each, kind, known) for each in _moved(node)]
        rest = node.inputs[len(inputs) :]
        attributes = {name: each.value for name, each in node.attributes.items()}
        made = bench.add(node.op_type, [*inputs, *rest], (value,), at=node, **attributes)
    made.type = ir.TensorType(kind)
    return made
