"""Quantized weights in ONNX: DequantizeLinear over packed codes, as onnxruntime fuses it.

onnxruntime turns ``MatMul(x, DequantizeLinear(codes))`` into one ``MatMulNBits`` kernel when
the codes are a 2-D initializer ``[in_features, out_features]``, ``axis`` is 0 and the block
size is one of `FUSABLE_BLOCKS` (or when there is one scale for each output channel, ``axis``
1), and codes, scales and the node have one reader each. So every matrix product gets a
DequantizeLinear and initializers of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor

from awqc.qparams import Granularity, QuantizedWeight, pack

FUSABLE_BLOCKS = (256, 128, 64, 32, 16)
TWO_BIT_OPSET = 25
DOMAIN = ""


def fusable_block(group_size: int) -> int:
    """The largest block that fuses and cuts a group into equal parts, else the group.

    >>> fusable_block(128), fusable_block(48), fusable_block(512), fusable_block(24)
    (128, 16, 256, 24)
    """
    return next((block for block in FUSABLE_BLOCKS if group_size % block == 0), group_size)


def code_type(granularity: Granularity, opset: int) -> tuple[ir.DataType, int]:
    """Element type of the codes, and its width in bits.

    Symmetric codes are stored signed, around zero, which needs no zero point; others
    unsigned. 2-bit types exist from opset 25 on; before, 2-bit codes take 4 bits.
    """
    bits = granularity.storage_bits
    if bits == 2 and opset < TWO_BIT_OPSET:
        bits = 4
    prefix = "INT" if granularity.symmetric else "UINT"
    return ir.DataType[f"{prefix}{bits}"], bits


class WeightPlacer:
    """Puts the initializers and nodes of one quantized weight into a graph."""

    def __init__(self, graph: Any, name: str, weight: QuantizedWeight, opset: int) -> None:
        self.graph = graph
        self.name = name
        self.weight = weight
        self.opset = opset
        self.copies = 0

    def place(self, value: Any) -> None:
        """Let every reader of ``value``, the float weight, read dequantized codes instead."""
        matrix = len(self.weight.shape) == 2
        for reader, index in list(value.uses()):
            if matrix and _is_transpose(reader):
                self._place_transposed(reader)
            elif matrix and index == 1 and _is_gemm(reader):
                self._place_gemm(reader)
        rest = list(value.uses())
        if rest:
            dequantized = self._shaped_value(_first(self.graph, [reader for reader, _ in rest]))
            for reader, index in rest:
                reader.replace_input_with(index, dequantized)

    def _place_transposed(self, transpose: Any) -> None:
        for reader, index in list(transpose.outputs[0].uses()):
            reader.replace_input_with(index, self._matrix_value(reader))
        self.graph.remove(transpose, safe=True)

    def _place_gemm(self, gemm: Any) -> None:
        """``Gemm(x, W, b)`` becomes ``Add(MatMul(x, W'), b)``.

        onnxruntime would merge a Gemm with the activation behind it, and then no longer
        with its weight.
        """
        x, _, *bias = gemm.inputs
        result = gemm.outputs[0]
        product = ir.node("MatMul", [x, self._matrix_value(gemm)], name=f"{gemm.name}/MatMul")
        last = product
        self.graph.insert_before(gemm, product)
        if bias and bias[0] is not None:
            product.outputs[0].name = f"{result.name}.product"
            last = ir.node("Add", [product.outputs[0], bias[0]], name=f"{gemm.name}/Add")
            self.graph.insert_before(gemm, last)
        last.outputs[0].name, last.outputs[0].type = result.name, result.type
        last.outputs[0].shape = result.shape
        ir.convenience.replace_all_uses_with(result, last.outputs[0], replace_graph_outputs=True)
        self.graph.remove(gemm, safe=True)

    def _matrix_value(self, reader: Any) -> Any:
        """The weight as ``[in_features, out_features]``, made just before ``reader``."""
        weight, group_size = self.weight, self.weight.granularity.group_size
        codes = weight.codes.T
        if group_size == -1:
            scale, zero_point = weight.scale[:, 0], _column(weight.zero_point)
            return self._dequantize(reader, codes, scale, zero_point, {"axis": 1})
        block = fusable_block(group_size)
        blocks = -(-codes.shape[0] // block)
        scale, zero_point = (
            None if t is None else t.repeat_interleave(group_size // block, dim=1)[:, :blocks].T
            for t in (weight.scale, weight.zero_point)
        )
        attributes = {"axis": 0, "block_size": block}
        assert scale is not None
        return self._dequantize(reader, codes, scale, zero_point, attributes)

    def _shaped_value(self, reader: Any) -> Any:
        """The weight in its own shape, made just before ``reader``."""
        weight, shape = self.weight, self.weight.shape
        if weight.scale.shape[1] == 1:
            codes = weight.codes.reshape(shape) if shape[0] == weight.scale.shape[0] else None
            if codes is not None:
                scale, zero_point = weight.scale[:, 0], _column(weight.zero_point)
                return self._dequantize(reader, codes, scale, zero_point, {"axis": 0})
        attributes = {"axis": 1, "block_size": weight.granularity.width(weight.codes.shape[1])}
        value = self._dequantize(
            reader, weight.codes, weight.scale, weight.zero_point, attributes
        )
        if tuple(weight.codes.shape) == tuple(shape):
            return value
        target = self._initializer("shape", ir.tensor(list(shape), dtype=ir.DataType.INT64))
        return self._node("Reshape", [value, target], reader, {}, value.type, shape)

    def _dequantize(
        self,
        reader: Any,
        codes: Tensor,
        scale: Tensor,
        zero_point: Tensor | None,
        attributes: dict[str, int],
    ) -> Any:
        inputs = [
            self._initializer("", self._code_tensor(codes)),
            self._initializer("scale", _float_tensor(scale)),
        ]
        if zero_point is not None:
            inputs.append(self._initializer("zero_point", self._code_tensor(zero_point)))
        self.copies += 1
        type_ = ir.TensorType(inputs[1].dtype)
        return self._node(
            "DequantizeLinear", inputs, reader, attributes, type_, tuple(codes.shape)
        )

    def _code_tensor(self, codes: Tensor) -> Any:
        """Codes (or zero points, which have the same type) as a tensor of the narrow type."""
        granularity = self.weight.granularity
        dtype, bits = code_type(granularity, self.opset)
        stored = codes.contiguous()
        if granularity.symmetric:
            offset = 2**bits - granularity.midpoint
            stored = ((stored.to(torch.int16) + offset) % 2**bits).to(torch.uint8)
        if bits == 8:
            array = stored.numpy()
            return ir.Tensor(array.view("int8") if granularity.symmetric else array)
        packed = pack(stored.reshape(1, -1), bits).reshape(-1).numpy()
        return ir.PackedTensor(packed, dtype, shape=ir.Shape(codes.shape))

    def _initializer(self, role: str, tensor: Any) -> Any:
        name = ".".join(part for part in (self.name, self._suffix(), role) if part)
        tensor.name = name
        value = ir.Value(
            name=name, type=ir.TensorType(tensor.dtype), shape=tensor.shape, const_value=tensor
        )
        self.graph.register_initializer(value)
        return value

    def _suffix(self) -> str:
        """Tells the copies of one weight apart: nothing, ``copy1``, ``copy2``, …"""
        return f"copy{self.copies}" if self.copies else ""

    def _node(
        self, op: str, inputs: list[Any], reader: Any, attributes: Any, type_: Any, shape: Any
    ) -> Any:
        node = ir.node(op, inputs, attributes=attributes or None)
        stem = str(inputs[0].name)
        node.name = f"{stem}/{op}"
        node.outputs[0].name = f"{stem}.{'dequantized' if op == 'DequantizeLinear' else 'shaped'}"
        node.outputs[0].type = type_
        node.outputs[0].shape = ir.Shape(shape)
        self.graph.insert_before(reader, node)
        return node.outputs[0]


def quantized_initializers(graph: Any) -> Iterator[tuple[Any, str]]:
    """Every DequantizeLinear of an initializer, with the initializer's name."""
    for node in graph:
        if node.op_type == "DequantizeLinear" and node.inputs[0].is_initializer():
            yield node, str(node.inputs[0].name)


def _is_transpose(node: Any) -> bool:
    if node.op_type != "Transpose" or node.domain != DOMAIN:
        return False
    perm = node.attributes.get("perm")
    return perm is None or list(perm.as_ints()) == [1, 0]


def _is_gemm(node: Any) -> bool:
    if node.op_type != "Gemm" or node.domain != DOMAIN:
        return False
    numbers = {key: node.attributes.get_float(key, 1.0) for key in ("alpha", "beta")}
    layout = (node.attributes.get_int("transA", 0), node.attributes.get_int("transB", 0))
    return layout == (0, 1) and set(numbers.values()) == {1.0}


def _first(graph: Any, nodes: list[Any]) -> Any:
    """The one of ``nodes`` that comes first in ``graph``."""
    if len(nodes) == 1:
        return nodes[0]
    wanted = set(nodes)
    return next(node for node in graph if node in wanted)


def _column(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor[:, 0]


def _float_tensor(tensor: Tensor) -> Any:
    tensor = tensor.contiguous()
    if tensor.dtype is torch.bfloat16:
        return ir.Tensor(tensor.view(torch.uint16).numpy(), dtype=ir.DataType.BFLOAT16)
    return ir.Tensor(tensor.numpy())
