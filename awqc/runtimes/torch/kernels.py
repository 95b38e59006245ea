"""Let quantized weights run in torch's own kernels, where they fit; the others become float.

A graph of a ``model.pt2`` dequantizes each weight at each run. Here each product with a 4-bit
weight, and each product and table with an 8-bit one, reads codes; what has no kernel is
dequantized once, and takes the memory of float.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.fx import Node

from awqc.graph.constant_values import value_of
from awqc.graph.linears import aten
from awqc.graph.ops import argument
from awqc.program import Program
from awqc.runtimes.torch.constant_weights import (
    Parts,
    constant_nodes,
    drop_checks,
    parts_of,
    weight_name,
)
from awqc.runtimes.torch.int4 import int4_linear, int4_weight
from awqc.runtimes.torch.int8 import int8_linear, int8_rows, int8_weight, is_bytes

NO_CODES = "no whole numbers with a scale a group; the kernels take these"


@dataclass(frozen=True)
class Replaced:
    """What the pass did.

    Attributes:
        fast: names of the weights whose codes are read at each run.
        portable: why the other quantized weights were dequantized, once, by name.
    """

    fast: tuple[str, ...]
    portable: dict[str, str]


def use_torch_kernels(program: Program) -> Replaced:
    """Replace each reader of a quantized weight that a kernel stands for.

    Quantized weights are found by what they are computed from (``….packed`` and more),
    and each is taken only if its codes give the very value that the graph computes.
    """
    drop_checks(program)
    fast: list[str] = []
    portable: dict[str, str] = {}
    for operand, readers in _readers(program).items():
        name = weight_name(operand)
        if name is None:
            continue
        parts = parts_of(program, name, operand)
        for node in readers:
            refused = NO_CODES if parts is None else _serve(program, name, parts, node, operand)
            if refused is None:
                fast.append(name)
            else:
                portable[name] = refused
                value = value_of(operand, program.weight) if parts is None else parts.value
                read = _read(program, f"{name}.{operand.name}", value, node)
                node.replace_input_with(operand, read)
    program.tidy()
    return Replaced(tuple(dict.fromkeys(fast)), portable)


def _readers(program: Program) -> dict[Node, list[Node]]:
    """For each constant its readers that are none."""
    constant = constant_nodes(program)
    found: dict[Node, list[Node]] = {}
    for node in program.graph.nodes:
        for operand in [] if node in constant else node.all_input_nodes:
            if operand in constant:
                found.setdefault(operand, []).append(node)
    return found


def _serve(program: Program, name: str, parts: Parts, node: Node, operand: Node) -> str | None:
    """Let ``node``, which reads ``operand``, read codes; or say why it cannot."""
    lookup, product = (
        node.target is target and argument(node, "weight") is operand
        for target in (aten.embedding.default, aten.linear.default)
    )
    if not lookup and not product:
        return f"read by {getattr(node.target, '__name__', node.target)}"
    made: tuple[Any, ...] | str
    if lookup or is_bytes(parts):
        made, labels = int8_weight(parts), ("int8_codes", "int8_scale")
    else:
        made, labels = int4_weight(parts), ("int4_words", "int4_scales_and_zeros")
    if isinstance(made, str):
        return made
    pairs = zip(labels, made[:2], strict=True)
    reads = [_read(program, f"{name}.{label}", value, node) for label, value in pairs]
    if lookup:
        new = program.call_op(node, int8_rows, *reads, argument(node, "indices"))
    else:
        x, bias = argument(node, "input"), argument(node, "bias")
        kernel = int8_linear if is_bytes(parts) else int4_linear
        new = program.call_op(node, kernel, x, *reads, *made[2:], bias)
    node.replace_all_uses_with(new)
    program.graph.erase_node(node)
    return None


def _read(program: Program, name: str, value: Tensor, before: Node) -> Node:
    """A node that reads ``value``, which is stored under ``name`` once."""
    module, _, leaf = name.rpartition(".")
    known = getattr(program.graph_module.get_submodule(module), leaf, None)
    return program.add_weight(name, value if known is None else known, before)
