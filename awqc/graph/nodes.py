"""What a node of the graph tells about itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._dispatch.python import enable_python_dispatcher
from torch.fx import Graph, Node
from torch.utils import _pytree as pytree


def module_path(node: Node) -> str:
    """Dotted path of the module whose forward made ``node``; empty at the top."""
    stack = node.meta.get("nn_module_stack") or {}
    return str(list(stack.values())[-1][0]) if stack else ""


def results_of(graph: Graph) -> Any:
    """What ``graph`` returns: the tuple of a program's outputs, else whatever nest it returns."""
    (output,) = graph.find_nodes(op="output")
    (results,) = output.args
    return results


def set_results(graph: Graph, results: tuple[Any, ...]) -> None:
    """Let ``graph`` return ``results``."""
    (output,) = graph.find_nodes(op="output")
    output.args = (results,)


def shape_of(node: Node) -> tuple[Any, ...]:
    """Sizes of the node's value: int, or torch.SymInt on a dynamic axis."""
    return tuple(node.meta["val"].shape)


@contextmanager
def open_sizes(mode: Any) -> Iterator[None]:
    """Run operations on fake values of ``mode`` as torch.export does.

    Definitions in Python are preferred: the compiled one of some operations asks for plain
    numbers, which would fix an axis that may vary for the whole graph.
    """
    with mode, enable_python_dispatcher():
        yield


def fake_mode_of(values: Any) -> Any:
    """The fake mode of the first fake tensor in a tree of values, or None."""
    for leaf in pytree.tree_leaves(values):
        mode = getattr(leaf, "fake_mode", None)
        if mode is not None:
            return mode
    return None


def fake_like(value: Tensor, anchor: Node) -> Tensor:
    """A fake of ``value`` in the fake mode of the graph that ``anchor`` is in."""
    for node in anchor.graph.nodes:
        mode = fake_mode_of(node.meta.get("val"))
        if mode is not None:
            with mode:
                return torch.empty_strided(
                    value.shape, value.stride(), dtype=value.dtype, device=value.device
                )
    return value
