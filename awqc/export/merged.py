"""A decoder that makes what it needs of the encoder at its first call, as one ONNX model.

::

    use_cache_branch, encoder_hidden_states, past_key_values.N.encoder.*, .decoder.*, tokens
        -> logits, present.N.decoder.*, present.N.encoder.*

    present.N.encoder = If(use_cache_branch) past_key_values.N.encoder
                        else cross(encoder_hidden_states)

The names are those of Optimum's and transformers.js's ``decoder_model_merged.onnx``. Only what the
first call computes besides stands in the branch, so that no weight is there twice. Without
``use_cache_branch`` a past is not looked at, of whatever length it is. The weights of the branch
stand in it: onnxruntime fuses a quantized product only with weights of its own graph.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnx_ir.convenience as convenience

from awqc.export.ort_data import DataFile
from awqc.kv_cache import CACHE_FLAG, PAST, PRESENT, past_of, present_of

ENCODER_SIDE = ".encoder."
STATES = "encoder_hidden_states"
FIRST_CALL = "cross"
"""The node with the graph of a first call in it, and what names in that graph begin with."""
KEPT = ".kept"
"""How the name of a past ends that is looked at."""
SOURCE = "source"
"""Name of the axis of the encoder's states: it may be empty at the first call, also where the
encoder always makes as many."""
EVERYTHING = np.iinfo(np.int64).max


def merge_decoder(cross: Path | None, decoder: Path, target: Path) -> Path:
    """Write ``decoder``, with ``cross`` in it, to ``target``; weights in its ``.data`` if need be.

    ``cross`` is None where the decoder reads the encoder's states at each call.
    """
    model = ir.load(decoder)
    graph = model.graph
    flag = ir.Value(name=CACHE_FLAG, type=ir.TensorType(ir.DataType.BOOL), shape=ir.Shape([1]))
    graph.inputs.append(flag)
    _forget(graph, flag)
    if cross is not None:
        _add_branch(model, ir.load(cross), flag)
    for values in (graph.inputs, graph.outputs):
        ordered = sorted(values, key=lambda value: _place(str(value.name)))
        values.clear()
        values.extend(ordered)
    return save_moved(model, target)


def _place(name: str) -> tuple[int, str, str]:
    """Optimum takes keys and values by their order: of a layer the decoder's own come first."""
    if not name.startswith((PAST, PRESENT)):
        return -1, "", ""
    layer, side, part = name.removeprefix(PAST).removeprefix(PRESENT).split(".")
    return int(layer), side, part


def save_as(source: Path, target: Path, told: Mapping[str, str] | None = None) -> Path:
    """Write the model at ``source`` to ``target``, its weights and ``told`` metadata with it."""
    model = ir.load(source)
    model.metadata_props.update(told or {})
    return save_moved(model, target)


def save_moved(model: Any, target: Path) -> Path:
    """Write ``model``; where weights of it lie in files, into one beside ``target``."""
    held = [value for graph in model.graphs() for value in graph.initializers.values()]
    if not any(isinstance(value.const_value, ir.ExternalTensor) for value in held):
        ir.save(model, target)
        return target
    with DataFile(target.with_name(f"{target.name}.data")) as data:
        for value in held:
            value.const_value = data.move(value.const_value)
    ir.save(model, target)
    return target


def _forget(graph: Any, flag: Any) -> None:
    """Let the decoder's own past be empty without the flag."""
    pasts = [
        value
        for value in graph.inputs
        if value.name.startswith(PAST) and ENCODER_SIDE not in value.name
    ]
    everything, nothing, axis = (
        _constant(graph, name, number)
        for name, number in (("past.all", EVERYTHING), ("past.none", 0), ("past.axis", 2))
    )
    end = ir.Value(name="past.end")
    nodes = [ir.Node("", "Where", [flag, everything, nothing], outputs=[end], name=end.name)]
    for past in pasts:
        kept = ir.Value(name=f"{past.name}{KEPT}", type=past.type)
        convenience.replace_all_uses_with(past, kept)
        nodes.append(
            ir.Node("", "Slice", [past, nothing, end, axis], outputs=[kept], name=kept.name)
        )
    _prepend(graph, nodes)


def _add_branch(model: Any, other: Any, flag: Any) -> None:
    """Put ``other``, the graph of a first call, into the branch without the flag."""
    graph, inner = model.graph, other.graph
    for value in [*inner.inputs, *(value for node in inner for value in node.outputs)]:
        value.name = f"{FIRST_CALL}.{value.name}"
    for node in inner:
        node.name = f"{FIRST_CALL}.{node.name}"
    known = {value.name: value for value in graph.inputs}
    for given in list(inner.inputs):
        name = given.name.removeprefix(f"{FIRST_CALL}.")
        if name not in known:
            known[name] = ir.Value(name=name, type=given.type, shape=given.shape)
            graph.inputs.append(known[name])
        convenience.replace_all_uses_with(given, known[name])
    inner.inputs.clear()
    for value in list(inner.initializers.values()):
        value.name = f"{FIRST_CALL}.{value.name}"
    pasts = [known[past_of(value.name.removeprefix(f"{FIRST_CALL}."))] for value in inner.outputs]
    chosen = [
        ir.Value(name=present_of(past.name), type=past.type, shape=past.shape) for past in pasts
    ]
    for past, value in zip(pasts, chosen, strict=True):
        convenience.replace_all_uses_with(past, value)
        past.shape = ir.Shape([*past.shape[:2], SOURCE, past.shape[3]])
    _prepend(graph, [_if(flag, _kept(pasts), inner, chosen)])
    graph.outputs.extend(chosen)
    for domain, version in other.opset_imports.items():
        model.opset_imports.setdefault(domain, version)
        graph.opset_imports.setdefault(domain, version)


def _if(flag: Any, kept: Any, made: Any, outputs: Sequence[Any]) -> Any:
    attributes = [ir.AttrGraph("then_branch", kept), ir.AttrGraph("else_branch", made)]
    return ir.Node("", "If", [flag], attributes, outputs=list(outputs), name=FIRST_CALL)


def _kept(pasts: Sequence[Any]) -> Any:
    nodes = [
        ir.Node(
            "", "Identity", [past],
            outputs=[ir.Value(name=f"{past.name}.same", type=past.type, shape=past.shape)],
            name=f"{past.name}.same",
        )
        for past in pasts
    ]  # fmt: skip
    return ir.Graph([], [node.outputs[0] for node in nodes], nodes=nodes, name="kept")


def _prepend(graph: Any, nodes: Sequence[Any]) -> None:
    first = next(iter(graph))
    graph.insert_before(first, nodes)


def _constant(graph: Any, name: str, number: int) -> Any:
    value = ir.Value(
        name=name,
        const_value=ir.tensor(np.array([number], dtype=np.int64), name=name),
        type=ir.TensorType(ir.DataType.INT64),
        shape=ir.Shape([1]),
    )
    graph.register_initializer(value)
    return value
