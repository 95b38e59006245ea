"""A program in pieces that are run one after another, each with weights that it is given."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from awqc.executor.segments import cut, is_weight
from awqc.graph.nodes import results_of
from awqc.graph.ops import argument
from awqc.program import Batch, Program

aten = torch.ops.aten


Values = dict[Node, Any]
"""What lives somewhere in a program, for one batch."""


@dataclass(frozen=True)
class Piece:
    """One segment of a program as a module: what it reads in, what it makes out.

    Attributes:
        module: takes the values of ``reads``, then ``matrices``, then ``tables``.
        reads: the values that it needs from before, inputs of the program among them.
        matrices: names of weights that it takes as tensors.
        tables: names of weights that it takes as what has a method ``look_up``.
        makes: what later pieces read; of the last piece, the outputs of the program.
    """

    module: GraphModule
    reads: tuple[Node, ...]
    matrices: tuple[str, ...]
    tables: tuple[str, ...]
    makes: tuple[Node, ...]

    def __call__(
        self, values: Values, matrices: Sequence[Tensor] = (), tables: Sequence[Any] = ()
    ) -> Values:
        """What it makes of what lives before it."""
        made = self.module(*(values[node] for node in self.reads), *matrices, *tables)
        return dict(zip(self.makes, made, strict=True))


def cut_up(program: Program, weights: Collection[str]) -> list[Piece]:
    """The pieces of ``program``, where `cut` cuts it; they take ``weights``, by name."""
    segments = [
        [node for node in segment.nodes if node.op not in ("placeholder", "get_attr", "output")]
        for segment in cut(program, smallest=1)
    ]
    last = len(segments) - 1
    return [
        _Builder(program, weights).build(nodes, index == last)
        for index, nodes in enumerate(segments)
    ]


def inputs_of(program: Program, batch: Batch) -> Values:
    """What lives before the first piece."""
    inputs = [node for node in program.graph.nodes if node.op == "placeholder"]
    return {node: batch[spec.name] for node, spec in zip(inputs, program.inputs, strict=True)}


class _Builder:
    """Copies nodes into a graph of their own."""

    def __init__(self, program: Program, weights: Collection[str]) -> None:
        self._program, self._weights = program, weights
        self._graph = Graph()
        self._copies: dict[Node, Node] = {}
        self._tables: dict[str, Node] = {}

    def build(self, nodes: list[Node], last: bool) -> Piece:
        """The piece of ``nodes``."""
        inside = set(nodes)
        results = tuple(results_of(self._program.graph)) if last else ()
        made = tuple(n for n in nodes if not inside.issuperset(n.users)) if not last else results
        looking = [node for node in nodes if self._looks_up(node)]
        read = dict.fromkeys(operand for node in nodes for operand in self._operands(node))
        read |= dict.fromkeys(results)
        outside = [node for node in read if node not in inside]
        values = [node for node in outside if not is_weight(node)]
        matrices = [n for n in outside if is_weight(n) and str(n.target) in self._weights]
        for node in (*values, *matrices):
            self._copies[node] = self._placeholder(node, node.name)
        tables = {str(argument(node, "weight").target): node for node in looking}
        for name, node in tables.items():
            self._tables[name] = self._placeholder(argument(node, "weight"), f"table_{node.name}")
        for node in outside:
            if node not in self._copies:
                self._copies[node] = self._graph.node_copy(node)
        for node in nodes:
            self._copies[node] = self._copy(node)
        self._graph.output(tuple(self._copies[node] for node in made))
        module = GraphModule(self._program.graph_module, self._graph)
        names = tuple(str(node.target) for node in matrices)
        return Piece(module, tuple(values), names, tuple(tables), made)

    def _placeholder(self, node: Node, name: str) -> Node:
        copied = self._graph.placeholder(name)
        copied.meta["val"] = node.meta["val"]
        return copied

    def _looks_up(self, node: Node) -> bool:
        if node.target is not aten.embedding.default:
            return False
        weight = argument(node, "weight")
        return is_weight(weight) and str(weight.target) in self._weights

    def _operands(self, node: Node) -> list[Node]:
        """What ``node`` reads, but for the table that it looks up in."""
        if self._looks_up(node):
            return [argument(node, "indices")]
        return list(node.all_input_nodes)

    def _copy(self, node: Node) -> Node:
        if not self._looks_up(node):
            return self._graph.node_copy(node, self._copies.__getitem__)
        table = self._tables[str(argument(node, "weight").target)]
        ids = self._copies[argument(node, "indices")]
        copied = self._graph.call_method("look_up", (table, ids))
        copied.meta.update(node.meta)
        return copied
