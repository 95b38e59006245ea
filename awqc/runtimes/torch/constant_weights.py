"""Quantized weights in a graph of plain torch operations: where they are computed, from what."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import Node

from awqc.graph.constant_values import leaves_of, value_of
from awqc.graph.linears import aten
from awqc.numerics.qparams import Granularity, dequantize_codes
from awqc.program import Program

MIDPOINTS = {3: 4, 4: 8, 8: 128}
"""Zero points of symmetric weights, by bits; 3-bit codes are stored in 4 bits."""


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
        candidates = [self.zero_point]
        if self.zero_point is None:
            like = torch.ones_like(self.scale, dtype=torch.uint8)
            candidates = [like * middle for middle in MIDPOINTS.values()]
        granularity = Granularity(4, group_size)
        for zero_point in candidates:
            found = dequantize_codes(codes, self.scale, zero_point, granularity)
            if torch.equal(found, self.value):
                return zero_point
        return None


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
    return packed[0] if packed and f"{packed[0]}.scale" in names else None


def parts_of(program: Program, name: str, operand: Node) -> Parts:
    """What ``operand``, the value of the quantized weight ``name``, is computed from."""
    tensors = {str(leaf.target): program.weight(str(leaf.target)) for leaf in leaves_of(operand)}
    return Parts(
        tensors[f"{name}.packed"],
        tensors[f"{name}.scale"],
        tensors.get(f"{name}.zero_point"),
        value_of(program, operand),
    )
