"""Give norms a weight, so that a scale can be folded into it."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from awqc.passes.base import Change
from awqc.program import Program

aten = torch.ops.aten
WEIGHTS: dict[Any, int] = {
    aten.layer_norm.default: 2,
    aten.rms_norm.default: 2,
    aten.group_norm.default: 2,
    aten.instance_norm.default: 1,
}
"""Norms, and where their weight stands among the arguments; a bias follows it."""


def give_norms_weights(program: Program) -> list[Change]:
    """``layer_norm(x, shape)  ->  layer_norm(x, shape, ones)``; other norms alike.

    Each norm gets a weight of its own: a shared one would tie their scales.
    """
    changes = []
    for node in list(program.graph.nodes):
        if node.op != "call_function" or node.target not in WEIGHTS:
            continue
        at = WEIGHTS[node.target]
        given = [*node.args[at : at + 2], node.kwargs.get("weight"), node.kwargs.get("bias")]
        if any(isinstance(value, Node) for value in given):
            continue
        value = node.meta["val"]
        shape: Any = node.args[1] if isinstance(node.args[1], list | tuple) else [value.shape[1]]
        if not all(isinstance(size, int) for size in shape):
            continue
        first = next(iter(program.graph.nodes))
        ones = torch.ones(*shape, dtype=value.dtype)
        read = program.add_weight(program.fresh_name(f"{node.name}.weight"), ones, first)
        node.args = (*node.args[:at], read, *node.args[at + 1 :])
        node.kwargs = {key: value for key, value in node.kwargs.items() if key != "weight"}
        changes.append(Change(node.name, "given a weight of ones"))
    return changes
