"""Values made of zeros and infinities, which every scale leaves as they are."""

from __future__ import annotations

import math

from torch import Tensor
from torch.fx import Node

from awqc.channels.flow import RULES
from awqc.channels.rules.elementwise import cast, homogeneous
from awqc.channels.rules.moving import moving
from awqc.graph.families import FILLS, PADS, ZEROS
from awqc.graph.ops import argument
from awqc.program import Program

MAX_ELEMENTS = 4096


def neutral_values(program: Program) -> frozenset[Node]:
    """Nodes whose value is 0 or infinite in every element.

    Small tensors of the program are looked at; large ones are taken for weights.
    """
    found: set[Node] = set()
    for node in program.graph.nodes:
        value = node.meta.get("val")
        if not isinstance(value, Tensor) or not value.dtype.is_floating_point:
            continue
        if _is_neutral(program, node, found):
            found.add(node)
    return frozenset(found)


def _is_neutral(program: Program, node: Node, found: set[Node]) -> bool:
    if node.op == "get_attr":
        value = program.weight(str(node.target))
        return value.numel() <= MAX_ELEMENTS and bool(((value == 0) | value.isinf()).all())
    if node.op != "call_function":
        return False
    if node.target in ZEROS:
        return True
    if node.target in FILLS:
        fill = argument(node, FILLS[node.target])
        return isinstance(fill, int | float) and (fill == 0 or math.isinf(fill))
    copies = RULES.get(node.target) in (homogeneous, cast, moving) and node.target not in PADS
    operands = [n for n in node.all_input_nodes if _is_floating(n)]
    return copies and bool(operands) and all(n in found for n in operands)


def _is_floating(node: Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.dtype.is_floating_point
