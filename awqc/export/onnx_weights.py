"""Quantized weights in ONNX: DequantizeLinear over packed codes, as onnxruntime fuses it.

onnxruntime turns ``MatMul(x, DequantizeLinear(codes))`` into one ``MatMulNBits`` kernel when
the codes are a 2-D initializer ``[in_features, out_features]``, ``axis`` is 0 and the block
size is one of `FUSABLE_BLOCKS` (or when there is one scale for each output channel, ``axis``
1), and codes, scales and the node have one reader each. So every matrix product gets a
DequantizeLinear and initializers of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import onnx_ir as ir
from torch import Tensor

from awqc.export.onnx_codes import (
    TWO_BIT_OPSET,
    code_tensor,
    columns_of,
    float_tensor,
    fusable_block,
    rows_of,
)
from awqc.export.onnx_tables import is_lookup, place_lookup
from awqc.export.whole_numbers import int_grid
from awqc.numerics.formats.base import QuantizedWeight
from awqc.numerics.onnx_packed import Rows

CLAMPS = frozenset({"Relu", "Clip"})
DOMAIN = ""


class WeightPlacer:
    """Puts the initializers and nodes of one quantized weight into a graph."""

    def __init__(self, graph: Any, name: str, weight: QuantizedWeight, opset: int) -> None:
        self.graph = graph
        self.name = name
        self.weight = weight
        self.format = int_grid(weight.format)
        self.scale, self.zero_point = weight.tensors["scale"], weight.tensors.get("zero_point")
        self.rows = weight.shape[0]
        # onnxruntime 1.31 reads beyond 2-bit codes when it fuses a product whose rows 4 does
        # not divide; such codes take 4 bits, as before there were 2-bit types.
        self.opset = opset if self.rows % 4 == 0 else min(opset, TWO_BIT_OPSET - 1)
        self.copies = 0

    def place(self, value: Any, shared: bool = False) -> None:
        """Let every reader of ``value``, the float weight, read dequantized codes instead.

        ``shared``: all read the same, dequantized once, as the steps of a recurrent network do.
        """
        if self._is_table() and any(is_lookup(*use) for use in value.uses()):
            self._place_table(value)
        matrix = len(self.weight.shape) == 2 and not shared
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

    def _is_table(self) -> bool:
        """Whether rows can be looked up as codes: one byte a code, one scale a row."""
        return self.format.bytewise and self.scale.shape[1] == 1

    def _place_table(self, value: Any) -> None:
        """Look rows up in the codes; products that share the table share its initializers."""
        matrix = (self.weight.rows, self.weight.columns)
        codes = self._initializer(self._codes(self.name, matrix, rows_of(self.weight)))
        scale = self._initializer(self._row_scale(f"{self.name}.scale"))
        self.copies += 1
        for reader, index in list(value.uses()):
            if is_lookup(reader, index):
                place_lookup(self.graph, reader, codes, scale, scale.dtype)
        readers = [reader for reader, _ in value.uses()]
        if readers:
            first = _first(self.graph, readers)
            own = self._row_scale(f"{self.name}.head_scale")
            type_ = ir.TensorType(own.dtype)
            inputs = [codes, self._initializer(own)]  # a scale with two readers does not fuse
            shape = tuple(self.weight.shape)
            dequantized = self._node("DequantizeLinear", inputs, first, type_, shape, {"axis": 0})
            for reader, index in list(value.uses()):
                reader.replace_input_with(index, dequantized)

    def _place_transposed(self, transpose: Any) -> None:
        for reader, index in list(transpose.outputs[0].uses()):
            reader.replace_input_with(index, self._matrix_value(reader))
            if reader.op_type == "MatMul":
                self._shield(reader)
        self.graph.remove(transpose, safe=True)

    def _place_gemm(self, gemm: Any) -> None:
        """``Gemm(x, W, b)`` becomes ``Add(MatMul(x, W'), b)``.

        onnxruntime would merge a Gemm with the activation behind it, and then no longer
        with its weight.
        """
        x, _, *bias = gemm.inputs
        result = gemm.outputs[0]
        product = ir.node("MatMul", [x, self._matrix_value(gemm)], name=f"{gemm.name}/MatMul")
        product.outputs[0].type, product.outputs[0].shape = result.type, result.shape
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
        self._shield(product)

    def _shield(self, product: Any) -> None:
        """Put a Reshape to the same shape between ``product`` and what would keep it unfused.

        onnxruntime takes a Relu or Clip right behind a product for a part of quantization and
        then leaves the weight alone, unless an Add stands between. It merges a product of
        matrices and an Add into a Gemm, which takes such a weight only if what is added is a
        bias, and no clamp follows. A Reshape costs nothing: it moves no data.
        """
        result = product.outputs[0]
        blocking = {result: _readers(result, CLAMPS)}
        if len(result.shape or ()) == 2:
            for add in _readers(result, {"Add"}):
                if _adds_bias(add):
                    blocking[add.outputs[0]] = _readers(add.outputs[0], CLAMPS)
                else:
                    blocking[result].append(add)
        for value, readers in blocking.items():
            if readers:
                self._reshape_before(readers, value, [*[0] * (len(value.shape) - 1), self.rows])

    def _reshape_before(self, readers: list[Any], value: Any, sizes: list[int]) -> None:
        tensor = ir.tensor(sizes, dtype=ir.DataType.INT64, name=f"{value.name}.shape")
        shape = self._initializer(tensor)
        first = _first(self.graph, readers)
        kept = self._node("Reshape", [value, shape], first, value.type, value.shape)
        for reader in readers:
            for index, read in enumerate(reader.inputs):
                if read is value:
                    reader.replace_input_with(index, kept)

    def _matrix_value(self, reader: Any) -> Any:
        """The weight as ``[in_features, out_features]``, made just before ``reader``."""
        group_size, turned = self.format.group_size, columns_of(self.weight)
        shape = (self.weight.columns, self.rows)
        if group_size == -1:
            groups = (self.rows,)
            return self._dequantize(reader, shape, turned, groups, _first_column, {"axis": 1})
        block = fusable_block(group_size)
        blocks = -(-self.weight.columns // block)

        def spread(groups: Tensor) -> Tensor:
            return groups.repeat_interleave(group_size // block, dim=1)[:, :blocks].T

        attributes = {"axis": 0, "block_size": block}
        return self._dequantize(reader, shape, turned, (blocks, self.rows), spread, attributes)

    def _shaped_value(self, reader: Any) -> Any:
        """The weight in its own shape, made just before ``reader``."""
        weight, shape, codes = self.weight, self.weight.shape, rows_of(self.weight)
        if self.scale.shape[1] == 1 and shape[0] == weight.rows:
            one = (weight.rows,)
            return self._dequantize(reader, shape, codes, one, _first_column, {"axis": 0})
        attributes = {"axis": 1, "block_size": self.format.width(weight.columns)}
        matrix = (weight.rows, weight.columns)
        groups = tuple(self.scale.shape)
        value = self._dequantize(reader, matrix, codes, groups, lambda each: each, attributes)
        if matrix == tuple(shape):
            return value
        target = ir.tensor(list(shape), dtype=ir.DataType.INT64, name=f"{self.name}.shape")
        return self._node("Reshape", [value, self._initializer(target)], reader, value.type, shape)

    def _dequantize(
        self,
        reader: Any,
        shape: Sequence[int],
        codes: Rows,
        groups: Sequence[int],
        laid_out: Callable[[Tensor], Tensor],
        attributes: dict[str, int],
    ) -> Any:
        """``codes`` of ``shape``; ``laid_out`` makes tensors of shape ``groups`` of the groups'."""
        copy = f"copy{self.copies}" if self.copies else ""
        self.copies += 1

        def name(role: str) -> str:
            return ".".join(part for part in (self.name, copy, role) if part)

        scale, zeros = self.scale, self.zero_point
        tensors = [
            self._codes(name(""), shape, codes),
            float_tensor(name("scale"), groups, scale.dtype, lambda: laid_out(scale)),
        ]
        if zeros is not None:
            tensors.append(self._codes(name("zero_point"), groups, _rows_of(laid_out(zeros))))
        inputs = [self._initializer(tensor) for tensor in tensors]
        type_ = ir.TensorType(inputs[1].dtype)
        return self._node("DequantizeLinear", inputs, reader, type_, tuple(shape), attributes)

    def _codes(self, name: str, shape: Sequence[int], rows: Rows) -> Any:
        return code_tensor(name, shape, rows, self.format, self.opset)

    def _row_scale(self, name: str) -> Any:
        """The one scale that each row has."""
        scale = self.scale
        return float_tensor(name, (len(scale),), scale.dtype, lambda: _first_column(scale))

    def _initializer(self, tensor: Any) -> Any:
        value = ir.Value(
            name=tensor.name,
            type=ir.TensorType(tensor.dtype),
            shape=tensor.shape,
            const_value=tensor,
        )
        self.graph.register_initializer(value)
        return value

    def _node(
        self,
        op: str,
        inputs: list[Any],
        reader: Any,
        type_: Any,
        shape: Any,
        attributes: dict[str, int] | None = None,
    ) -> Any:
        """A new node just before ``reader``; returns its output."""
        stem = str(inputs[0].name)
        node = ir.node(op, inputs, attributes=attributes, name=f"{stem}/{op}")
        node.outputs[0].name = f"{stem}.{'dequantized' if op == 'DequantizeLinear' else 'shaped'}"
        node.outputs[0].type = type_
        node.outputs[0].shape = ir.Shape(shape)
        self.graph.insert_before(reader, node)
        return node.outputs[0]


def _rows_of(whole: Tensor) -> Rows:
    """Those of a tensor that is there as a whole."""
    return lambda start, stop: whole[start:stop]


def _is_transpose(node: Any) -> bool:
    if node.op_type != "Transpose" or node.domain != DOMAIN:
        return False
    perm = node.attributes.get("perm")
    return perm is None or list(perm.as_ints()) == [1, 0]


def _adds_bias(add: Any) -> bool:
    """Whether an operand has one axis."""
    return any(value.shape is not None and len(value.shape) == 1 for value in add.inputs)


def _is_gemm(node: Any) -> bool:
    if node.op_type != "Gemm" or node.domain != DOMAIN:
        return False
    numbers = {key: node.attributes.get_float(key, 1.0) for key in ("alpha", "beta")}
    layout = (node.attributes.get_int("transA", 0), node.attributes.get_int("transB", 0))
    return layout == (0, 1) and set(numbers.values()) == {1.0}


def _readers(value: Any, types: Collection[str]) -> list[Any]:
    """Nodes of ``types`` whose first or second input is ``value``."""
    return [node for node, index in value.uses() if node.op_type in types and index < 2]


def _first(graph: Any, nodes: list[Any]) -> Any:
    """The one of ``nodes`` that comes first in ``graph``."""
    if len(nodes) == 1:
        return nodes[0]
    wanted = set(nodes)
    return next(node for node in graph if node in wanted)


def _first_column(tensor: Tensor) -> Tensor:
    return tensor[:, 0]
