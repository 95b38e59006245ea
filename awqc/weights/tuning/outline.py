"""A program as tuning sees it: what counts, with quantized weights read as float ones are."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch.fx import Graph, GraphModule, Node

from awqc.graph.nodes import results_of
from awqc.program import Program
from awqc.weights.tuning.graph import quantized_calls


def outline(program: Program) -> Program:
    """``program`` with the outputs that count alone, and each quantized weight as one tensor.

        before:  linear(x, dequantize(W.packed, W.scale, …)), states
        after:   linear(x, W)

    Such a ``W`` lies on the meta device: whoever runs a piece of the graph gives its values. So
    a quantized program has the graph, and the places to cut it, of the float one. Other tensors
    are shared with ``program``.
    """
    calls = {call: name for name, call in quantized_calls(program).items()}
    counted = _counted(program)
    graph, copies = Graph(), dict[Node, Node]()
    for node in program.graph.nodes:
        if node in calls:
            copies[node] = graph.create_node("get_attr", calls[node], name=node.name)
            copies[node].meta["val"] = node.meta["val"]
        elif node.op not in ("output", "call_module"):  # observers are none of its business
            copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(tuple(copies[node] for node in counted.values()))
    graph.eliminate_dead_code()
    interface = replace(program.interface, outputs=tuple(counted))
    made = replace(
        program, graph_module=GraphModule(program.graph_module, graph), interface=interface
    )
    for call, name in calls.items():
        made.set_weight(name, torch.empty(tuple(call.meta["val"].shape), device="meta"))
    return made


def _counted(program: Program) -> dict[str, Node]:
    """The outputs whose distance from the float model's counts, by name."""
    states = program.scaled_outputs()
    return {
        name: node
        for name, node in zip(program.outputs, results_of(program.graph), strict=True)
        if name not in states and node.meta["val"].is_floating_point()
    }
