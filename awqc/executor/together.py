"""Several batches of different sizes through a graph at once: each weight is made one time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from awqc.executor.replay import Values, attribute, last_readers
from awqc.graph.choices import choosing
from awqc.graph.nodes import results_of
from awqc.graph.ops import argument, call, evaluate_call
from awqc.program import Batch, Program

LINEAR = torch.ops.aten.linear.default


@torch.no_grad()
def run_together(program: Program, batches: Sequence[Batch]) -> list[tuple[Tensor, ...]]:
    """Outputs of ``program`` for each of ``batches``, as `Program.run` gives them.

    What follows from weights alone is computed once. A product sees the rows of all batches at
    once, so that a quantized weight is dequantized once.
    """
    if not batches:
        return []
    graph = program.graph
    frees, kept = last_readers(list(graph.nodes)), set(results_of(graph))
    found: dict[Node, Values] = {}
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    there = [program.placed(batch) for batch in batches]
    for node, spec in zip(inputs, program.inputs, strict=True):
        found[node] = [given[spec.name] for given in there]
    varies = set(inputs)
    with choosing(graph):
        for node in graph.nodes:
            if node.op == "get_attr":
                found[node] = [attribute(program.graph_module, str(node.target))] * len(batches)
            elif node.op == "call_function":
                if varies.isdisjoint(node.all_input_nodes):
                    found[node] = [_one(node, found, 0)] * len(batches)
                else:
                    varies.add(node)
                    found[node] = _each(node, found, varies, len(batches))
            for done in frees.get(node, ()):
                if done not in kept:
                    found.pop(done, None)
    results = results_of(graph)
    return [
        program.brought_back([found[node][index] for node in results])
        for index in range(len(batches))
    ]


def _each(node: Node, found: Mapping[Node, Values], varies: set[Node], count: int) -> Values:
    if node.target is LINEAR:
        x, *weights = (argument(node, name) for name in ("input", "weight", "bias"))
        if varies.isdisjoint(weights):
            return _product(node, found[x], found)
    return [_one(node, found, index) for index in range(count)]


def _one(node: Node, found: Mapping[Node, Values], index: int) -> Any:
    return evaluate_call(node, lambda operand: found[operand][index])


def _product(node: Node, inputs: Sequence[Tensor], found: Mapping[Node, Values]) -> Values:
    """The product ``node`` of each of ``inputs``, ``(..., columns)``."""
    rows = torch.cat([x.reshape(-1, x.shape[-1]) for x in inputs])

    def value(leaf: Any) -> Any:
        return found[leaf][0] if isinstance(leaf, Node) else leaf

    made = call(node, value, input=rows)
    parts = made.split([x.shape[:-1].numel() for x in inputs])
    return [
        part.reshape(*x.shape[:-1], part.shape[-1]) for part, x in zip(parts, inputs, strict=True)
    ]
