"""Expressions of a program's tensors: what they are made of, and their value."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from awqc.program import Program


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


def value_of(program: Program, node: Node) -> Tensor:
    """The value of ``node``, which is computed from tensors of ``program`` alone."""
    values: dict[Node, Any] = {}

    def evaluate(step: Node) -> Any:
        if step not in values:
            if step.op == "get_attr":
                values[step] = program.weight(str(step.target))
            else:
                args, kwargs = torch.fx.node.map_arg((step.args, step.kwargs), evaluate)
                values[step] = step.target(*args, **kwargs)  # type: ignore[operator]
        return values[step]

    with torch.no_grad():
        value = evaluate(node)
    assert isinstance(value, Tensor)
    return value
