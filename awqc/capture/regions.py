"""Calls of a graph on graphs of its own: contexts that are opened up, and those that cannot be."""

from __future__ import annotations

from torch._ops import HigherOrderOperator
from torch.export import ExportedProgram
from torch.fx import Node

from awqc.capture.token_scans import is_linear_attention
from awqc.errors import UnsupportedGraphError
from awqc.graph.nodes import module_path
from awqc.program import Program

CONTEXTS = ("wrap_with_autocast", "wrap_with_set_grad_enabled")
"""What ``torch.autocast`` and ``torch.no_grad`` inside forward become."""
BRANCHES = "cond"
"""Of which exporters have a form; passes have none."""
INSTEAD = {
    BRANCHES: "compute both branches and choose with torch.where",
    "flex_attention": "use torch.nn.functional.scaled_dot_product_attention "
    "(attn_implementation='sdpa' of a transformers model)",
    "while_loop": "write the loop with a fixed number of steps",
    "scan": "write the loop with a fixed number of steps",
}
OTHERWISE = "write it with operations on tensors"


def has_contexts(exported: ExportedProgram) -> bool:
    """Whether part of ``exported`` runs within a context: its graph is inside a call.

    ``torch.vmap`` is one as well: its calls stand around the operations that it maps.
    """
    maps = any(_maps(node.target) for node in exported.graph.nodes)
    return maps or any(_name(node) in CONTEXTS for node in _calls(exported))


def _maps(target: object) -> bool:
    """Whether ``target`` begins or ends what is mapped over an axis."""
    return callable(target) and str(target.__module__).startswith("torch._functorch")


def check_flat(exported: ExportedProgram, name: str) -> None:
    """Refuse graphs inside ``exported``, called ``name``, which no pass would look into.

    Raises:
        UnsupportedGraphError: there is one; the message names it, and what to write instead.
    """
    for node in _calls(exported):
        called = _name(node)
        if called != BRANCHES and not is_linear_attention(exported.graph_module, node):
            raise _refusal(node, name)


def check_no_branches(program: Program) -> None:
    """Refuse a captured graph that goes one of two ways: passes see neither.

    Raises:
        UnsupportedGraphError: it does; the message names the call, and what to write instead.
    """
    for node in program.graph.nodes:
        if isinstance(node.target, HigherOrderOperator):
            raise _refusal(node, program.name)


def _refusal(node: Node, name: str) -> UnsupportedGraphError:
    called = _name(node)
    return UnsupportedGraphError(
        f"{name}: {node.name} (in {module_path(node) or 'forward'}) is a call of {called}, "
        "which computes with functions in place of tensors; a compiled model is one flat "
        f"graph: {INSTEAD.get(called, OTHERWISE)}"
    )


def _calls(exported: ExportedProgram) -> list[Node]:
    """Calls of operators that take functions."""
    return [node for node in exported.graph.nodes if isinstance(node.target, HigherOrderOperator)]


def _name(node: Node) -> str:
    target = node.target
    assert isinstance(target, HigherOrderOperator)
    return str(target.name())
