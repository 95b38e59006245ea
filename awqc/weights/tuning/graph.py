"""A quantized program as a function of its weights: the same graph runs float or quantized."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from awqc.program import Batch, InputSpec, Program
from awqc.weights.stored import dequantizing_calls


class WeightFunction:
    """The graph of ``program`` with the results of some nodes as arguments, by name."""

    def __init__(self, program: Program, slots: Mapping[str, Node]) -> None:
        self._names = tuple(slots)
        self._inputs: tuple[InputSpec, ...] = program.inputs
        graph = _with_slots(program.graph, tuple(slots.values()))
        self._module = GraphModule(program.graph_module, graph)

    def __call__(self, batch: Batch, weights: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """Outputs for ``batch`` with float ``weights`` by name; gradients flow to them."""
        values = [batch[spec.name] for spec in self._inputs]
        return tuple(self._module(*values, *(weights[name] for name in self._names)))


def quantized_calls(program: Program) -> dict[str, Node]:
    """The call that makes each quantized weight, by the weight's name."""
    calls = dequantizing_calls(program.graph)
    quantized = program.findings.quantized
    return {stored.name: node for node, stored in calls if stored.name in quantized}


def weight_reads(program: Program) -> dict[str, Node]:
    """The node that reads each tensor, by the tensor's name."""
    return {str(node.target): node for node in program.graph.nodes if node.op == "get_attr"}


def _with_slots(graph: Graph, calls: Sequence[Node]) -> Graph:
    """A copy of ``graph`` that takes the results of ``calls`` as further inputs."""
    copied = Graph()
    last = [node for node in graph.nodes if node.op == "placeholder"][-1]
    mapped: dict[Node, Node] = {}
    for node in graph.nodes:
        if node not in calls:
            mapped[node] = copied.node_copy(node, mapped.__getitem__)
        if node is last:
            for index, call in enumerate(calls):
                mapped[call] = copied.placeholder(f"weight_{index}")
    copied.eliminate_dead_code()
    copied.lint()
    return copied
