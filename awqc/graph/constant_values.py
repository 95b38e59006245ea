"""Expressions of a graph's tensors: what they are made of, and their value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from awqc.graph.ops import evaluate_call


def leaves_of(node: Node) -> list[Node]:
    """The tensors that ``node`` is computed from, each once; itself if it reads one."""
    leaves: list[Node] = []
    seen: set[Node] = set()
    stack = [node]
    while stack:
        step = stack.pop()
        if step in seen:
            continue
        seen.add(step)
        if step.op == "get_attr":
            leaves.append(step)
        stack.extend(reversed(step.all_input_nodes))
    return leaves


def value_of(node: Node, read: Callable[[str], Tensor]) -> Tensor:
    """The value of ``node``, which is computed from tensors alone; ``read`` gives one by name."""
    values: dict[Node, Any] = {}

    def value(step: Node) -> Any:
        if step not in values:
            if step.op == "get_attr":
                values[step] = read(str(step.target))
            else:
                values[step] = evaluate_call(step, value)
        return values[step]

    with torch.no_grad():
        found = value(node)
    assert isinstance(found, Tensor)
    return found
