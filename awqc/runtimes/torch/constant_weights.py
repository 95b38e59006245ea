"""Quantized weights in a graph of plain torch operations: where they are computed, from what."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.fx import Node

from awqc.graph.constant_values import leaves_of, value_of
from awqc.graph.linears import aten
from awqc.numerics.recovering import recovered_zero_points
from awqc.program import Program


@dataclass(frozen=True)
class Parts:
    """The tensors that a dequantized weight is made of, and its value."""

    packed: Tensor
    scale: Tensor
    zero_point: Tensor | None
    value: Tensor

    def bits(self) -> int:
        """Bits in which a code is stored."""
        rows, columns = self.packed.shape[0], self.value.numel() // self.packed.shape[0]
        return self.packed.numel() * 8 // (rows * columns)

    def zero_of(self, codes: Tensor, group_size: int) -> Tensor | None:
        """The zero points with which ``codes`` give the weight's value exactly."""
        return recovered_zero_points(codes, self.scale, self.zero_point, self.value, group_size)


def drop_checks(program: Program) -> None:
    """Drop assertions about tensors: they keep alive, and run, what nothing else reads."""
    for node in list(program.graph.nodes):
        if node.target is aten._assert_tensor_metadata.default:
            program.graph.erase_node(node)


def constant_nodes(program: Program) -> set[Node]:
    """The nodes that are computed from tensors of the program alone."""
    found: set[Node] = set()
    for node in program.graph.nodes:
        sources = node.all_input_nodes
        computed = node.op == "call_function" and sources and all(n in found for n in sources)
        if node.op == "get_attr" or computed:
            found.add(node)
    return found


def weight_name(operand: Node) -> str | None:
    """Name of the quantized weight that ``operand`` is the value of, or None."""
    names = [str(leaf.target) for leaf in leaves_of(operand)]
    packed = [name.removesuffix(".packed") for name in names if name.endswith(".packed")]
    return packed[0] if packed else None


def parts_of(program: Program, name: str, operand: Node) -> Parts | None:
    """What ``operand``, the value of the quantized weight ``name``, is computed from.

    None where that is not codes with a scale.
    """
    tensors = {str(leaf.target): program.weight(str(leaf.target)) for leaf in leaves_of(operand)}
    if f"{name}.scale" not in tensors:
        return None
    return Parts(
        tensors[f"{name}.packed"],
        tensors[f"{name}.scale"],
        tensors.get(f"{name}.zero_point"),
        value_of(operand, program.weight),
    )
