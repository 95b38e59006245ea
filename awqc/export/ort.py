"""The ONNX form that onnxruntime loads fastest: its own low-bit operations, written directly.

A QDQ model makes onnxruntime find ``DequantizeLinear -> MatMul``, unpack the codes and pack them
anew at each load. Here that is done once, when the model is written::

    MatMul(x, DequantizeLinear(codes))                      ->  MatMulNBits(x, codes)
    MatMul(x, Transpose(DequantizeLinear(codes)))           ->  MatMulNBits(x, codes)
    x @ Q, x @ K, x @ V                                     ->  Split(MatMulNBits(x, [Q K V]))
    Cast(Gather(codes, i)) * Unsqueeze(Gather(scale, i))    ->  GatherBlockQuantized(codes, i)

What a target has no kernels for stays as it is. A vector that is added to a product goes into it
where kernels take one; else it is left to the runtime. Then attention, norms and rotations become
one operation each; see `awqc.fusion.patterns`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as passes

from awqc.errors import ExportError
from awqc.export.ort_data import DataFile
from awqc.export.ort_products import Product, find_products, side_by_side
from awqc.export.ort_weights import SCALES, is_codes, table_codes, why_not
from awqc.fusion.onnx_values import dims
from awqc.fusion.patterns import fuse
from awqc.fusion.workbench import CONTRIB
from awqc.numerics.onnx_types import ROWS_OF
from awqc.targets.base import PRODUCT, TABLE, Target
from awqc.targets.known import ORT_CPU

SMALLEST_BLOCK = 16
RUNS_ON = "awqc.target"
"""Metadata of a model: the target that it was written for."""


@dataclass(frozen=True)
class ExportedOrt:
    """What `export_ort` wrote.

    Attributes:
        path: the model; its weights are in ``data`` beside it.
        products: number of MatMulNBits nodes, and ``tables`` of GatherBlockQuantized nodes.
        left: quantized weights that stay in QDQ form, with the reason.
    """

    path: Path
    data: Path
    products: int
    tables: int
    left: dict[str, str]


def export_ort(
    source: Path, target: Path, accuracy_level: int | None = None, *, runs_on: Target = ORT_CPU
) -> ExportedOrt:
    """Write the QDQ model ``source`` in onnxruntime's own form to ``target``.

    Args:
        source: what `awqc.export.onnx.export_onnx` wrote.
        target: the model; weights go to ``<target>.data``, each from the start of a page.
        accuracy_level: of all products, as MatMulNBits defines it: 0 to 4; None: as is usual
            for what it runs on.
        runs_on: what will run it.

    Raises:
        ExportError: a file cannot be read or written, or the result is not valid.
    """
    data = target.with_name(f"{target.name}.data")
    try:
        model = ir.load(source)
        with DataFile(data) as file:
            level = runs_on.accuracy_level if accuracy_level is None else accuracy_level
            rewriter = Rewriter(model, file, level, runs_on)
            rewriter.run()
            fuse(model, runs_on)
            held = [v for v in model.graph.initializers.values() if v.const_value is not None]
            for value in held:
                value.const_value = file.move(value.const_value)
            # A fusion that lays weights out anew leaves what they were in the file.
            kept = file.keep([value.const_value for value in held])
            for value, tensor in zip(held, kept, strict=True):
                value.const_value = tensor
        model.metadata_props[RUNS_ON] = runs_on.name
        ir.save(model, target)
    except OSError as error:
        raise ExportError(f"{target}: could not be written: {error}") from error
    try:
        onnx.checker.check_model(str(target))
    except onnx.checker.ValidationError as error:
        raise ExportError(f"{target}: not a valid ONNX model: {error}") from error
    return ExportedOrt(
        target, data, rewriter.products, rewriter.tables, left_in_qdq(model, runs_on)
    )


class Rewriter:
    """Replaces quantized weights of ``model``; their new tensors go to ``file``.

    Attributes:
        products: nodes written so far; ``tables`` likewise.
    """

    def __init__(self, model: Any, file: DataFile, level: int, target: Target) -> None:
        self.model = model
        self.target = target
        self.graph = model.graph
        self.file = file
        self.level = level
        self.products = 0
        self.tables = 0

    def run(self) -> None:
        """Rewrite the whole graph, and drop what nothing reads any more."""
        for node in list(self.graph):
            if TABLE in self.target.fused and node.domain == "" and node.op_type == "Gather":
                self._rewrite_lookup(node)
        for group in find_products(self.graph, self.target):
            self._rewrite_products(group)
        passes.RemoveUnusedNodesPass()(self.model)
        self.model.opset_imports[CONTRIB] = 1

    def _rewrite_products(self, group: list[Product]) -> None:
        """Of products that read one value one product, and a Split if they are several."""
        first = group[0]
        arrays, attributes = side_by_side(group, self.target)
        name = "+".join(product.name for product in group)
        parts = ("packed", "block_scale", "block_zero_point", "group_index", "bias")
        inputs = [first.node.inputs[0]]
        for part, array in zip(parts, arrays, strict=False):
            held = None if array is None else self._initializer(f"{name}.{part}", array)
            inputs.append(held)
        while inputs[-1] is None:
            inputs.pop()
        attributes["accuracy_level"] = self.level
        self.products += 1
        if len(group) == 1:
            last = first.bias if self.target.adds_vectors and first.bias is not None else first.node
            self._replace(last, PRODUCT, inputs, attributes)
            return
        node = ir.node(PRODUCT, inputs, attributes=attributes, domain=CONTRIB)
        node.name = "+".join(str(product.node.name) for product in group)
        node.metadata_props[ROWS_OF] = json.dumps([(each.name, each.rows) for each in group])
        node.outputs[0].name = f"{node.name}.result"
        node.outputs[0].type = first.node.outputs[0].type
        if (sizes := dims(first.node.outputs[0])) is not None:
            node.outputs[0].shape = ir.Shape([*sizes[:-1], attributes["N"]])
        rows = self._initializer(f"{name}.rows", np.array([p.rows for p in group], np.int64))
        split = ir.node(
            "Split", [node.outputs[0], rows], attributes={"axis": -1}, num_outputs=len(group)
        )
        split.name = f"{node.name}/Split"
        self.graph.insert_before(first.node, [node, split])
        for product, result in zip(group, split.outputs, strict=True):
            self._take_over(product.bias or product.node, result)

    def _take_over(self, old: Any, result: Any) -> None:
        """Let ``result`` be what ``old`` makes."""
        before = old.outputs[0]
        result.type, result.shape = before.type, before.shape
        ir.convenience.replace_all_uses_with(before, result, replace_graph_outputs=True)
        result.name, before.name = before.name, f"{before.name}.before"

    def _rewrite_lookup(self, gather: Any) -> None:
        """Of a table with one scale a row; its codes and scales are gathered and multiplied."""
        found = _match_lookup(gather)
        if found is None:
            return
        product, scale = found
        codes = table_codes(gather.inputs[0].const_value)
        name = str(gather.inputs[0].name)
        block = max(SMALLEST_BLOCK, 1 << (codes.shape[1] - 1).bit_length())
        inputs = [
            self._initializer(f"{name}.table", codes),
            gather.inputs[1],
            self._initializer(f"{name}.table_scale", scale.const_value.numpy()[:, None]),
        ]
        attributes = {"bits": 8, "block_size": block, "gather_axis": 0, "quantize_axis": 1}
        self._replace(product, TABLE, inputs, attributes)
        self.tables += 1

    def _replace(self, old: Any, op: str, inputs: list[Any], attributes: dict[str, int]) -> None:
        result = old.outputs[0]
        node = ir.node(op, inputs, attributes=attributes, domain=CONTRIB, name=old.name)
        node.outputs[0].type, node.outputs[0].shape = result.type, result.shape
        self.graph.insert_before(old, node)
        ir.convenience.replace_all_uses_with(result, node.outputs[0], replace_graph_outputs=True)
        name = result.name
        self.graph.remove(old, safe=True)
        node.outputs[0].name = name

    def _initializer(self, name: str, array: np.ndarray[Any, Any]) -> Any:
        unique, count = name, 0
        while unique in self.graph.initializers:
            count += 1
            unique = f"{name}_{count}"
        tensor = self.file.tensor(unique, array)
        value = ir.Value(
            name=unique,
            type=ir.TensorType(tensor.dtype),
            shape=ir.Shape(array.shape),
            const_value=tensor,
        )
        self.graph.register_initializer(value)
        return value


def left_in_qdq(model: Any, target: Target) -> dict[str, str]:
    """Quantized weights of ``model`` that are not in ``target``'s products, with the reason."""
    left = {}
    for node in model.graph:
        if node.op_type == "DequantizeLinear" and is_codes(node.inputs[0]):
            reason = f"read by {', '.join(_readers(node))}; only products have a kernel"
            left[str(node.inputs[0].name)] = why_not(node, target) or reason
    return left


def _readers(node: Any) -> list[str]:
    """Types of what reads ``node``, behind a change of shape."""
    found = set()
    for reader, _ in node.outputs[0].uses():
        found |= set(_readers(reader)) if reader.op_type == "Reshape" else {reader.op_type}
    return sorted(found)


def _match_lookup(gather: Any) -> tuple[Any, Any] | None:
    """The Mul at the end of a lookup that begins with ``gather`` of codes, and the scales.

    Cast(Gather(codes, ids)) * Unsqueeze(Gather(scale, ids))
    """
    codes, ids = gather.inputs
    if not is_codes(codes) or codes.dtype != ir.DataType.INT8 or len(codes.shape) != 2:
        return None
    product = _only_reader(_only_reader(gather, "Cast"), "Mul")
    if gather.attributes.get_int("axis", 0) != 0 or product is None:
        return None
    factor = product.inputs[1].producer()
    source = factor.inputs[0].producer() if factor is not None else None
    if source is None or factor.op_type != "Unsqueeze" or source.op_type != "Gather":
        return None
    scale = source.inputs[0]
    fits = scale.const_value is not None and scale.dtype in SCALES and len(scale.shape) == 1
    return (product, scale) if fits and source.inputs[1] is ids else None


def _only_reader(node: Any, op: str) -> Any:
    """The one reader of ``node``, if it is an ``op``; else None."""
    uses = list(node.outputs[0].uses()) if node is not None else []
    return uses[0][0] if len(uses) == 1 and uses[0][0].op_type == op else None
