"""Conditions that hold whatever the model is given."""

from __future__ import annotations

from awqc.fusion.onnx_values import Value, maker, scalar

MOVES = ("Expand", "Reshape", "Squeeze", "Transpose", "Unsqueeze", "Cast", "ReduceMax", "Identity")
"""Operations that make nothing but true of what is true everywhere."""


def always(value: Value | None) -> bool:
    """Whether ``value`` is true everywhere, whatever the inputs.

    As ``Range(0, n) >= 0`` is, of which masks of models are made that hide nothing.
    """
    if value is None:
        return False
    if value.const_value is not None:
        return bool(value.const_value.numpy().all())
    node = maker(value)
    if node is None:
        return False
    if node.op_type in MOVES:
        return always(node.inputs[0])
    if node.op_type == "And":
        return all(always(each) for each in node.inputs)
    if node.op_type == "GreaterOrEqual":
        return scalar(node.inputs[1]) == 0 and _counts(node.inputs[0])
    return False


def hides_nothing(bias: Value) -> bool:
    """Whether ``bias``, which is added to scores, is zero everywhere, whatever the inputs."""
    node = maker(bias, "Where")
    return node is not None and scalar(node.inputs[1]) == 0 and always(node.inputs[0])


def _counts(value: Value) -> bool:
    """Whether ``value`` holds numbers of a Range that begins at zero or later, and goes up."""
    while (node := maker(value)) is not None and node.op_type in MOVES:
        value = node.inputs[0]
    if node is None or node.op_type != "Range":
        return False
    start, step = scalar(node.inputs[0]), scalar(node.inputs[2])
    return start is not None and step is not None and start >= 0 and step > 0
