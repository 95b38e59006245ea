"""Running a graph node by node over all batches at once, with a word before each product."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from awqc.graph.ops import evaluate_call, first_argument
from awqc.machine.products import quick_products
from awqc.program import Batch, Program

Values = list[Any]
"""What one node gives, for each batch."""


@torch.no_grad()
def walk(
    program: Program,
    batches: Sequence[Batch],
    weights: Mapping[str, Tensor],
    stops: Collection[Node],
    floats: int,
    before: Callable[[Node, Values], Mapping[str, Tensor]],
) -> None:
    """Compute every node up to the last of ``stops``, for all ``batches``.

    A value is freed after its last reader, so that what is held is what is live, times the
    number of batches.

    Args:
        program: the graph.
        batches: what it is run on.
        weights: tensors that are read in place of the program's own, by name.
        floats: the first so many batches read the program's own weights all the same.
        stops: nodes before which ``before`` is called, with the first operand's values. What
            it returns are weights that are read from there on.
        before: see above.
    """
    nodes = list(program.graph.nodes)
    last = max(nodes.index(node) for node in stops)
    frees = last_readers(nodes[: last + 1])
    replaced = dict(weights)
    found: dict[Node, Values] = {}
    inputs = [node for node in nodes if node.op == "placeholder"]
    for node, spec in zip(inputs, program.inputs, strict=True):
        found[node] = [batch[spec.name] for batch in batches]
    for node in nodes[: last + 1]:
        if node in stops:
            replaced.update(before(node, found[first_argument(node)]))
        if node.op == "call_function":
            with quick_products():
                found[node] = [
                    _call(
                        program.graph_module,
                        node,
                        found,
                        {} if index < floats else replaced,
                        index,
                    )
                    for index in range(len(batches))
                ]
        for done in frees.get(node, ()):
            found.pop(done, None)


def _call(
    module: GraphModule,
    node: Node,
    found: Mapping[Node, Values],
    replaced: Mapping[str, Tensor],
    index: int,
) -> Any:
    """The value of ``node`` for one batch."""

    def value(operand: Node) -> Any:
        if operand.op != "get_attr":
            return found[operand][index]
        name = str(operand.target)
        return replaced[name] if name in replaced else attribute(module, name)

    return evaluate_call(node, value)


def attribute(module: GraphModule, name: str) -> Any:
    """The tensor or module called ``name``, a dotted path, in ``module``."""
    owner, _, leaf = name.rpartition(".")
    return getattr(module.get_submodule(owner), leaf)


def last_readers(nodes: Sequence[Node]) -> dict[Node, list[Node]]:
    """For each node the values that nothing behind it reads."""
    last: dict[Node, Node] = {}
    for node in nodes:
        for operand in node.all_input_nodes:
            last[operand] = node
    frees: dict[Node, list[Node]] = {}
    for operand, reader in last.items():
        frees.setdefault(reader, []).append(operand)
    return frees
