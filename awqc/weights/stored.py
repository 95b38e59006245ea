"""Quantized weights in a graph: the tensors that store one, and the call that dequantizes it.

before:  reader(x, W)
after:   reader(x, operation(W.packed, W.scale, …, shape, …))
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch.fx import Graph, Node

from awqc.graph.ops import arguments
from awqc.numerics.formats.base import QuantizedWeight, WeightFormat
from awqc.numerics.formats.found import dequantizes, read_call
from awqc.program import Program


@dataclass(frozen=True)
class StoredWeight:
    """A quantized weight as a graph holds it.

    Attributes:
        name: of the weight.
        format: says what the tensors mean.
        tensors: their names, by role.
        shape: of the weight.
    """

    name: str
    format: WeightFormat
    tensors: Mapping[str, str]
    shape: tuple[int, ...]

    def load(self, program: Program) -> QuantizedWeight:
        """The weight itself."""
        held = {role: program.weight(name) for role, name in self.tensors.items()}
        return QuantizedWeight(self.format, held, self.shape)


def is_dequantizing(node: Node) -> bool:
    """Whether ``node`` makes a weight from what stores it."""
    return node.op == "call_function" and dequantizes(node.target)


def stored_weight(call: Node) -> StoredWeight:
    """What a call that dequantizes reads."""
    form, held, shape = read_call(call.target, (), arguments(call))
    tensors = {role: str(node.target) for role, node in held.items()}
    packed = form.roles[0]
    return StoredWeight(tensors[packed].removesuffix(f".{packed}"), form, tensors, shape)


def dequantizing_calls(graph: Graph) -> Iterator[tuple[Node, StoredWeight]]:
    """Every call that dequantizes, with what it reads."""
    for node in graph.nodes:
        if is_dequantizing(node):
            yield node, stored_weight(node)


def store(program: Program, weight: Node, quantized: QuantizedWeight) -> None:
    """Let the readers of the float ``weight`` read the dequantized codes instead.

    The call stands just before the first of them: the dequantized weight lives as briefly as
    possible.
    """
    readers = set(weight.users)
    anchor = next(iter(readers))
    if len(readers) > 1:
        anchor = next(node for node in program.graph.nodes if node in readers)
    name, form = str(weight.target), quantized.format
    reads = [
        program.add_weight(f"{name}.{role}", quantized.tensors[role], anchor)
        if role in quantized.tensors
        else None
        for role in form.roles
    ]
    call = program.call_op(anchor, form.operation, *reads, list(quantized.shape), *form.constants)
    weight.replace_all_uses_with(call)
    program.graph.erase_node(weight)
