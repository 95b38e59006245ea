"""Drop operations that hand on what they read, which stand between those that matter."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from awqc.fusion.onnx_values import Node, Value, dims, maker, numbers, scalar, with_scalar

WHOLE = 2**31 - 1
"""An end of a slice that no axis reaches."""


def drop_idle(graph: Any) -> None:
    """Let readers of an operation that changes nothing read what it reads.

    before:  x -> Slice [0:] -> Cast to its own type -> y
    after:   x -> y
    """
    for node in list(graph):
        source = _handed_on(node)
        result = node.outputs[0]
        if source is not None and not result.is_graph_output():
            ir.convenience.replace_all_uses_with(result, source)
            graph.remove(node, safe=True)


def join_unsqueezes(graph: Any) -> None:
    """Of axes that are added one after the other one operation.

    before:  x -> Unsqueeze [0] -> Unsqueeze [1] -> Unsqueeze [3] -> y
    after:   x -> Unsqueeze [0, 1, 3] -> y
    """
    for node in list(graph):
        first = maker(node.inputs[0], "Unsqueeze") if node.op_type == "Unsqueeze" else None
        if first is None:
            continue
        before, after = numbers(first.inputs[1]), numbers(node.inputs[1])
        if before is None or after is None or min([*before, *after]) < 0:
            continue
        places = sorted(after)
        for each in sorted(before):  # an axis counts those that are added before it
            place = each
            for other in sorted(after):
                place += other <= place
            places.append(place)
        name = f"{node.name}.axes"
        axes = ir.Value(
            name=name,
            type=ir.TensorType(ir.DataType.INT64),
            shape=ir.Shape([len(places)]),
            const_value=ir.Tensor(np.array(sorted(places), np.int64), name=name),
        )
        graph.register_initializer(axes)
        node.replace_input_with(0, first.inputs[0])
        node.replace_input_with(1, axes)


def _handed_on(node: Node) -> Value | None:
    """What ``node`` hands on unchanged, if that is what it does."""
    first: Value = node.inputs[0] if node.inputs else None
    if node.op_type == "Identity":
        return first
    if node.op_type == "Slice":
        starts, ends = numbers(node.inputs[1]), numbers(node.inputs[2])
        steps = numbers(node.inputs[4]) if len(node.inputs) > 4 else [1]
        whole = starts is not None and ends is not None and not any(starts) and min(ends) >= WHOLE
        return first if whole and steps is not None and set(steps) == {1} else None
    if node.op_type == "Transpose":
        order = node.attributes.get("perm")
        places = None if order is None else list(order.as_ints())
        return first if places is not None and places == sorted(places) else None
    if node.op_type == "Expand":
        sizes = dims(first)
        return first if sizes is not None and sizes == dims(node.outputs[0]) else None
    if node.op_type == "Cast":
        return first if first.dtype == node.attributes["to"].as_int() else None
    return _neutral(node)


def _neutral(node: Node) -> Value | None:
    """Of ``x * 1``, ``x / 1`` and ``x + 0`` the ``x``; of ``True and x`` as well."""
    if node.op_type not in ("Mul", "Div", "Add", "And"):
        return None
    if node.op_type == "And":
        pairs = (node.inputs, (node.inputs[1], node.inputs[0]))
        return next((other for flag, other in pairs if scalar(flag) and not dims(flag)), None)
    found = with_scalar(node)
    if found is None:
        return None
    value, number = found
    constant = node.inputs[1] if node.inputs[0] is value else node.inputs[0]
    same = len(dims(constant) or []) <= len(dims(value) or [])
    return value if same and number == (0.0 if node.op_type == "Add" else 1.0) else None
