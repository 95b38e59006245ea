"""What `awqc.export.merged` put together, taken apart: for runners that look for it elsewhere.

::

    encoder.onnx   what the encoder reads -> its states, present.N.encoder.*
    decoder.onnx   tokens, past_key_values.N.encoder.*, .decoder.*
                       -> logits, present.N.decoder.*

So what a first call makes of the encoder's states is made where these are; no weight is there
twice.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx_ir as ir
import onnx_ir.convenience as convenience

from awqc.export.merged import FIRST_CALL, KEPT, STATES, save_moved
from awqc.kv_cache import CACHE_FLAG, past_of


def unmerge(encoder: Path, decoder: Path, targets: tuple[Path, Path]) -> None:
    """Write the encoder, with what a first call makes, and the decoder without it, to ``targets``.

    A decoder that reads the encoder's states at each call goes on doing so.
    """
    first, later = ir.load(encoder), ir.load(decoder)
    made = _without_first_call(later)
    if made is not None:
        _append(first, made, later)
    save_moved(first, targets[0])
    save_moved(later, targets[1])


def _without_first_call(model: Any) -> Any:
    """Let ``model`` go on from what it is given; returns the graph of a first call, if it has one.

    That graph reads the encoder's states as a value of ``model``'s.
    """
    graph = model.graph
    flag = next(value for value in graph.inputs if value.name == CACHE_FLAG)
    given = {value.name: value for value in graph.inputs}
    made = None
    for node in list(graph):
        if node.name.endswith(KEPT):
            _give_way(graph, node, [given[node.name.removesuffix(KEPT)]])
        elif node.name == FIRST_CALL and node.op_type == "If":
            made = node.attributes["else_branch"].as_graph()
            sources = [given[past_of(value.name)] for value in node.outputs]
            for value in node.outputs:
                graph.outputs.remove(value)
            _give_way(graph, node, sources)
    graph.remove([node for node in graph if flag in node.inputs], safe=True)
    graph.inputs.remove(flag)
    for name in [name for name, value in graph.initializers.items() if not value.uses()]:
        del graph.initializers[name]
    return made


def _give_way(graph: Any, node: Any, values: list[Any]) -> None:
    """Let ``values`` take the places of what ``node`` makes."""
    for old, new in zip(list(node.outputs), values, strict=True):
        convenience.replace_all_uses_with(old, new)
    graph.remove(node, safe=True)


def _append(model: Any, made: Any, decoder: Any) -> None:
    """Let ``model``, an encoder, make what ``made`` makes of its states too."""
    graph = model.graph
    states = next(value for value in decoder.graph.inputs if value.name == STATES)
    convenience.replace_all_uses_with(states, graph.outputs[0])
    decoder.graph.inputs.remove(states)
    for value in list(made.initializers.values()):
        del made.initializers[value.name]
        graph.register_initializer(value)
    nodes, outputs = list(made), list(made.outputs)
    made.outputs.clear()
    made.remove(nodes)
    graph.extend(nodes)
    for value in outputs:
        value.name = value.name.removeprefix(f"{FIRST_CALL}.")
    graph.outputs.extend(outputs)
    for domain, version in decoder.opset_imports.items():
        model.opset_imports.setdefault(domain, version)
