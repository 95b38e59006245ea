"""A compiled folder as transformers.js looks for files.

::

    model.onnx          onnx/model_q4.onnx
    model.onnx.data     onnx/model_q4.onnx_data
    config.json         config.json, with transformers.js_config
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import onnx

from awqc.artifacts.json_files import read_json
from awqc.artifacts.names import (
    AUDIO_TOWER,
    EMBED_MODEL,
    ENCODER_MODEL,
    IMAGE_TOWER,
    MERGED_MODEL,
    MODEL,
    TEXT_TOWER,
    TUNED,
    VISION_MODEL,
)
from awqc.export.preprocessors import PREPROCESSOR, read_preprocessor
from awqc.runtimes.session_file import LEVELLED

DTYPES = {("4", False): "q4", ("4", True): "q4f16", ("8", False): "q8"}
"""What transformers.js calls weights of so many bits, where a model computes in float32 and where
(True) it does in float16; others have the name of what is computed in."""
SUFFIXES = {"q4": "_q4", "q4f16": "_q4f16", "q8": "_quantized", "fp16": "_fp16", "fp32": ""}
FOLDER, SETTINGS_KEY = "onnx", "transformers.js_config"
TOWERS = (TEXT_TOWER, IMAGE_TOWER, AUDIO_TOWER)
MODELS = (*TOWERS, MODEL, ENCODER_MODEL, VISION_MODEL, EMBED_MODEL, MERGED_MODEL)
"""Towers come first: they read the data of the whole, which is moved then."""
BITS = ("bits", "expert_weight_bits")
"""Attributes that say the width of codes."""
AXES = {"batch": "batch_size"}
"""Names of axes by which transformers.js makes an empty cache."""
TEMPLATE, TOKENIZER = "chat_template.jinja", "tokenizer_config.json"


def arrange(folder: Path) -> None:
    """Arrange ``folder``, which is as a compile writes it; of two forms that of onnxruntime."""
    found = {name: _form(folder, name) for name in MODELS}
    models = {name: path for name, path in found.items() if path is not None}
    graphs = [_graph(path) for path in models.values()]
    width = min((width for graph in graphs for width in _widths(graph)), default="")
    half = any(map(_in_half, graphs))
    dtype = DTYPES.get((width, half), "fp16" if half else "fp32")
    (folder / FOLDER).mkdir()
    external = [name for name, path in models.items() if _move(folder, path, name, dtype)]
    shutil.rmtree(folder / TUNED, ignore_errors=True)
    _describe(folder / "config.json", dtype, external)
    _put_template_in(folder)
    _put_preprocessor_beside(folder)


def _form(folder: Path, name: str) -> Path | None:
    return next((p for p in (folder / TUNED / name, folder / name) if p.is_file()), None)


def _graph(path: Path) -> onnx.GraphProto:
    return onnx.load(path, load_external_data=False).graph


def _graphs_in(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """``graph`` and the graphs in its nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _graphs_in(attribute.g)


def _widths(graph: onnx.GraphProto) -> Iterator[str]:
    """Widths of the codes that products and dequantizations of ``graph`` read."""
    for each in _graphs_in(graph):
        kinds = {tensor.name: tensor.data_type for tensor in each.initializer}
        for node in each.node:
            if node.op_type == "DequantizeLinear" and node.input[0] in kinds:
                name = onnx.TensorProto.DataType.Name(kinds[node.input[0]])
                yield name.lower().removeprefix("u").removeprefix("int")
            elif node.op_type in LEVELLED:
                yield from (str(a.i) for a in node.attribute if a.name in BITS)


def _in_half(graph: onnx.GraphProto) -> bool:
    """Whether ``graph`` takes or gives float16: by the name that follows caches are made."""
    kinds = {value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)}
    return onnx.TensorProto.FLOAT16 in kinds


def _move(folder: Path, source: Path, name: str, dtype: str) -> bool:
    """Move the model at ``source`` to where it is looked for; whether it has data of its own."""
    target = folder / FOLDER / f"{Path(name).stem}{SUFFIXES[dtype]}.onnx"
    model = onnx.load(source, load_external_data=name in TOWERS)
    for value in (*model.graph.input, *model.graph.output):
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param in AXES:
                size.dim_param = AXES[size.dim_param]
    data = source.with_name(f"{name}.data")
    external = data.is_file()
    if external:
        moved = target.with_name(f"{target.name}_data")
        _relocate(model.graph, moved.name)
        data.replace(moved)
    onnx.save(model, target)
    for old in (folder / name, folder / f"{name}.data", source):
        old.unlink(missing_ok=True)
    return external


def _relocate(graph: onnx.GraphProto, location: str) -> None:
    """Let external tensors of ``graph``, and of graphs in it, lie in the file ``location``."""
    for each in _graphs_in(graph):
        for tensor in each.initializer:
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = location


def _describe(config: Path, dtype: str, external: list[str]) -> None:
    content = read_json(config)
    content[SETTINGS_KEY] = {"dtype": dtype}
    if external:
        files = [f"{Path(name).stem}{SUFFIXES[dtype]}.onnx" for name in external]
        content[SETTINGS_KEY]["use_external_data_format"] = dict.fromkeys(files, 1)
    config.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _put_preprocessor_beside(folder: Path) -> None:
    """What makes a model's inputs, as the file of its own that it was before transformers 5."""
    found = read_preprocessor(folder)
    if found is not None:
        text = json.dumps(found, indent=2) + "\n"
        (folder / PREPROCESSOR).write_text(text, encoding="utf-8")


def _put_template_in(folder: Path) -> None:
    """The chat template, which transformers.js reads from the tokenizer's configuration."""
    if (folder / TEMPLATE).is_file() and (folder / TOKENIZER).is_file():
        content = read_json(folder / TOKENIZER)
        content.setdefault("chat_template", (folder / TEMPLATE).read_text(encoding="utf-8"))
        text = json.dumps(content, indent=2) + "\n"
        (folder / TOKENIZER).write_text(text, encoding="utf-8")
