"""Drop calls that do nothing in inference."""

from __future__ import annotations

import torch
from torch.fx import Node

from awqc.graph.families import ASSERTS, CASTS, COPIES, DROPOUTS, SQUEEZES
from awqc.graph.ops import argument, first_argument
from awqc.passes.base import Change
from awqc.program import Program


def drop_asserts(program: Program) -> list[Change]:
    """Drop checks of shapes, dtypes and values; they changed nothing."""
    changes = []
    for node in list(program.graph.nodes):
        if node.op == "call_module" and node.target == "_guards_fn":
            program.graph.erase_node(node)
            changes.append(Change(node.name, "dropped the input guards"))
        elif node.op == "call_function" and node.target in ASSERTS:
            program.graph.erase_node(node)
            changes.append(Change(node.name, "dropped an assert"))
    return changes


def drop_no_ops(program: Program) -> list[Change]:
    """Replace calls that return their input by that input."""
    changes = []
    for node in list(program.graph.nodes):
        if node.op != "call_function" or not _returns_input(node):
            continue
        source = first_argument(node)
        node.replace_all_uses_with(source)
        program.graph.erase_node(node)
        changes.append(Change(node.name, f"dropped: it returns {source.name}"))
    return changes


def _returns_input(node: Node) -> bool:
    """Whether the value of ``node`` is its first argument, element by element."""
    operand = first_argument(node)
    if not isinstance(operand, Node):
        return False
    source, value = operand.meta.get("val"), node.meta["val"]
    if not isinstance(source, torch.Tensor):
        return False
    if node.target in DROPOUTS:
        return not argument(node, "train") or bool(argument(node, "p") == 0)
    if node.target in COPIES:
        # A copy that also makes strided memory dense matters to a view behind it.
        return _same_layout(source, value)
    if node.target in SQUEEZES:
        return bool(source.ndim == value.ndim)  # its axes have not the size 1
    if node.target in CASTS:
        return bool(source.dtype == value.dtype and source.device == value.device)
    return False


def _same_layout(first: torch.Tensor, second: torch.Tensor) -> bool:
    return bool(first.stride() == second.stride())
