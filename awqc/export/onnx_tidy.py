"""Make a translated ONNX graph small and readable, in single passes over its nodes."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes
from onnxscript import optimizer

from awqc.graph.nodes import shape_of
from awqc.program import Program

SMALL = 1024
_SCOPES = "pkg.torch.onnx.name_scopes"
_SYMBOL = re.compile(r"[A-Za-z_]\w*")


def simplify(model: Any) -> None:
    """Fold what is constant and small, and drop repeated, idle and dead nodes.

    Only tensors up to `SMALL` elements are folded: weights stay the tensors they are.
    """
    optimizer.fold_constants(model, input_size_limit=SMALL, output_size_limit=SMALL)
    for step in (
        passes.RemoveUnusedNodesPass(),
        passes.IdentityEliminationPass(),
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.DeduplicateInitializersPass(size_limit=SMALL),
        passes.CommonSubexpressionEliminationPass(),
        passes.RemoveUnusedNodesPass(),
    ):
        step(model)
    _divide_by_roots(model.graph)


def _divide_by_roots(graph: Any) -> None:
    """``x * (1 / sqrt(v))  ->  x / sqrt(v)``: so onnxruntime knows an RMS norm and fuses it."""
    for inverse in list(graph):
        root = inverse.inputs[0] if inverse.op_type == "Reciprocal" else None
        if root is None or root.producer() is None or root.producer().op_type != "Sqrt":
            continue
        for product, index in list(inverse.outputs[0].uses()):
            other = product.inputs[1 - index] if product.op_type == "Mul" else inverse.outputs[0]
            if other is not inverse.outputs[0]:
                product.op_type = "Div"
                product.replace_input_with(0, other)
                product.replace_input_with(1, root)
        if not inverse.outputs[0].uses() and not inverse.outputs[0].is_graph_output():
            graph.remove(inverse, safe=True)


def keep_padding(model: Any) -> None:
    """``MaxPool(Pad(x))  ->  MaxPool(Max(Pad(x), -inf))``.

    onnxruntime gives a pool the padding of the ``Pad`` before it. That pads with zeros and a
    maximum with minus infinity: the result would be wrong where all of a window is negative.
    """
    for node in [node for node in _all_nodes(model) if node.op_type == "MaxPool"]:
        padded = node.inputs[0]
        maker = padded.producer()
        if maker is None or maker.op_type != "Pad" or padded.dtype is None:
            continue
        lowest = ir.tensor(np.array(-np.inf, dtype=padded.dtype.numpy()), name=f"{padded.name}.low")
        low = ir.Value(
            name=lowest.name,
            type=ir.TensorType(padded.dtype),
            shape=ir.Shape([]),
            const_value=lowest,
        )
        node.graph.register_initializer(low)
        kept = ir.node("Max", [padded, low])
        kept.outputs[0].dtype, kept.outputs[0].shape = padded.dtype, padded.shape
        kept.metadata_props.update(maker.metadata_props)
        node.graph.insert_before(node, kept)
        node.replace_input_with(0, kept.outputs[0])


def name_nodes(model: Any) -> None:
    """Call each node ``module.path/OpType``, with a number where that is taken."""
    seen: Counter[str] = Counter()
    for node in _all_nodes(model):
        path = _module_path(node)
        stem = f"{path}/{node.op_type}" if path else node.op_type
        count = seen[stem]
        seen[stem] += 1
        node.name = f"{stem}_{count}" if count else stem


def _module_path(node: Any) -> str:
    """Path of the module whose forward made ``node``; empty at the top."""
    scopes = node.metadata_props.get(_SCOPES)
    path = ast.literal_eval(scopes) if scopes else []
    return str(path[-2]) if len(path) > 1 else ""


def strip_metadata(model: Any) -> None:
    """Drop what the translator noted for debugging, such as the paths of source files."""
    passes.ClearMetadataAndDocStringPass()(model)
    model.metadata_props.clear()
    model.doc_string = None
    for value in _all_values(model):
        value.metadata_props.clear()
        value.doc_string = None
        if value.const_value is not None:
            value.const_value.doc_string = None


def axis_names(program: Program) -> dict[str, str]:
    """For each symbol of the graph's inputs the name that the program's inputs give it."""
    placeholders = [node for node in program.graph.nodes if node.op == "placeholder"]
    names = {}
    for node, spec in zip(placeholders, program.inputs, strict=True):
        for size, name in zip(shape_of(node), spec.shape, strict=True):
            if isinstance(name, str) and str(size).isidentifier():
                names[str(size)] = name
    return names


def rename_axes(model: Any, names: dict[str, str]) -> None:
    """Use ``names`` for the symbols in all shapes."""
    for value in _all_values(model):
        if value.shape is None or value.shape.is_static():
            continue
        sizes = [_rename_size(size, names) for size in value.shape]
        value.shape = ir.Shape(sizes)


def _rename_size(size: Any, names: dict[str, str]) -> int | str | None:
    if isinstance(size, int):
        return size
    text = size.value
    if text is None or text in names:
        return names.get(text)
    words = {symbol: name for symbol, name in names.items() if name.isidentifier()}
    made = _SYMBOL.sub(lambda match: words.get(match.group(), match.group()), text)
    return next((name for name in names.values() if _terms(name) == _terms(made)), made)


def _terms(size: str) -> list[str]:
    """What a sum adds up, in whatever order it is written."""
    return sorted(size.split(" + "))


def _all_nodes(model: Any) -> Iterator[Any]:
    yield from ir.traversal.RecursiveGraphIterator(model.graph)
    for function in model.functions.values():
        yield from ir.traversal.RecursiveGraphIterator(function)


def _all_values(model: Any) -> Iterator[Any]:
    yield from model.graph.inputs
    yield from model.graph.initializers.values()
    for node in _all_nodes(model):
        yield from node.outputs
