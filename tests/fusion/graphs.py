"""Graphs of attention, norms and rotations in text, and what comes of fusing them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import onnxruntime as ort

from awqc.fusion.patterns import fuse
from awqc.kv_cache import PAST, PRESENT
from awqc.targets.base import Target
from awqc.targets.known import ORT_CPU

Array = np.ndarray[Any, Any]
_HEAD = '<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>\n'


def parsed(text: str, **weights: Array) -> onnx.ModelProto:
    """The model of ``text``, in which ``past_`` and ``present_`` stand for the names of a cache."""
    model = onnx.parser.parse_model(_HEAD + text)
    for name, array in weights.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    names = {}
    for value in (*model.graph.input, *model.graph.output):
        for short, whole in (("past_", PAST), ("present_", PRESENT)):
            if value.name.startswith(short):
                names[value.name] = f"{whole}0.{value.name.removeprefix(short)}"
                value.name = names[value.name]
    for place, node in enumerate(model.graph.node):
        node.name = f"node_{place}"
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    return onnx.shape_inference.infer_shapes(model, data_prop=True)


def fused(
    model: onnx.ModelProto, target: Target = ORT_CPU
) -> tuple[onnx.ModelProto, Counter[str], dict[str, str]]:
    """The fused model, how often each type of operation is in it, and its metadata."""
    graph = ir.from_proto(model)
    fuse(graph, target)
    made = ir.to_proto(graph)
    told = {entry.key: entry.value for entry in made.metadata_props}
    return made, Counter(node.op_type for node in made.graph.node), told


def run(model: onnx.ModelProto | Path, feeds: dict[str, Array]) -> list[Array]:
    """Outputs in onnxruntime, of what the model takes of ``feeds``."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    source = model if isinstance(model, Path) else model.SerializeToString()
    session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    names = {value.name for value in session.get_inputs()}
    return list(session.run(None, {k: v for k, v in feeds.items() if k in names}))
