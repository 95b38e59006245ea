"""Embedding tables in ONNX: rows are looked up as codes and dequantized afterwards.

``Gather(DequantizeLinear(codes))`` would dequantize the whole table at each run. So the codes
are gathered, and only the rows found are multiplied by their scales. A head that shares the
table reads the same initializers, through ``DequantizeLinear -> Transpose -> MatMul``, which
onnxruntime runs as one low-bit kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx_ir as ir

Initialize = Callable[[Any, str], Any]
"""Makes an initializer of a tensor and a role (empty: the codes)."""


def is_lookup(node: Any, index: int) -> bool:
    """Whether ``node`` takes rows out of its input number ``index``."""
    axis = node.attributes.get_int("axis", 0)
    return bool(node.op_type == "Gather" and index == 0 and axis == 0)


def place_lookup(graph: Any, gather: Any, codes: Any, scale: Any, dtype: ir.DataType) -> None:
    """Look up int8 ``codes`` ``[V, E]`` and ``scale`` ``[V]``, and multiply.

    Gather(W, ids)  ->  Cast(Gather(codes, ids)) * Unsqueeze(Gather(scale, ids))
    """
    result, ids = gather.outputs[0], gather.inputs[1]
    stem = str(codes.name)

    def add(op: str, inputs: list[Any], role: str, **attributes: Any) -> Any:
        node = ir.node(op, inputs, attributes=attributes, name=f"{stem}/{role}")
        node.outputs[0].name = f"{result.name}.{role}"
        graph.insert_before(gather, node)
        return node.outputs[0]

    axes = ir.tensor([-1], dtype=ir.DataType.INT64, name=f"{result.name}.axes")
    axes_value = ir.Value(
        name=axes.name, type=ir.TensorType(axes.dtype), shape=ir.Shape([1]), const_value=axes
    )
    graph.register_initializer(axes_value)
    rows = add("Cast", [add("Gather", [codes, ids], "codes", axis=0)], "floats", to=dtype)
    scales = add("Gather", [scale, ids], "scale", axis=0)
    product = add("Mul", [rows, add("Unsqueeze", [scales, axes_value], "scales")], "rows")
    product.type, product.shape = result.type, result.shape
    ir.convenience.replace_all_uses_with(result, product, replace_graph_outputs=True)
    name = result.name
    graph.remove(gather, safe=True)
    product.name = name
