"""``session.json``: what onnxruntime should be told when it opens a model.

On CUDA, onnxruntime has a faster kernel (fpA_intB) that is off by default. It takes half
activations, symmetric 4- or 8-bit codes in blocks of 32, and a number of rows that 64
divides. It is asked for where a product of the model fits.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx

from awqc.runtimes.session_file import LOW_BIT
from awqc.runtimes.session_settings import ACCURACY_LEVEL, FPA_INTB, SETTINGS

FPA_BLOCK, FPA_ROWS = 32, 64
HALVES = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)


def write_session_file(model: Path, accuracy_level: int | None) -> Path:
    """Write the settings for ``model`` beside it; returns the file.

    ``accuracy_level`` is for products that onnxruntime fuses itself; None leaves its default.
    """
    graph = onnx.load(model, load_external_data=False).graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    content: dict[str, Any] = {"config": {}, "providers": {}}
    if accuracy_level is not None:
        content["config"][ACCURACY_LEVEL] = str(accuracy_level)
    if any(_fits(node, tensors) for node in graph.node):
        content["providers"]["cuda"] = {"config": {FPA_INTB: "1"}, "options": {}}
    path = model.with_name(SETTINGS)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return path


def _fits(node: onnx.NodeProto, tensors: dict[str, onnx.TensorProto]) -> bool:
    """Whether fpA_intB takes the product of ``node``, in either form."""
    if node.op_type not in (LOW_BIT, "DequantizeLinear"):
        return False
    numbers = {attribute.name: attribute.i for attribute in node.attribute}
    tuned = node.op_type == LOW_BIT
    inputs = [tensors.get(name) for name in node.input]
    codes, scale, zeros = (*inputs[1:], None, None)[:3] if tuned else (*inputs, None)[:3]
    if codes is None or scale is None or scale.data_type not in HALVES or zeros is not None:
        return False
    rows = numbers["N"] if tuned else codes.dims[-1]
    return numbers.get("block_size") == FPA_BLOCK and rows % FPA_ROWS == 0
