"""Give norms a weight, so that a scale can be folded into it."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from awqc.passes.base import Change
from awqc.program import Program

aten = torch.ops.aten
NORMS = (aten.layer_norm.default, aten.rms_norm.default)


def give_norms_weights(program: Program) -> list[Change]:
    """``layer_norm(x, shape)  ->  layer_norm(x, shape, ones)``; ``rms_norm`` alike.

    Each norm gets a weight of its own: a shared one would tie their scales.
    """
    changes = []
    for node in list(program.graph.nodes):
        if node.op != "call_function" or node.target not in NORMS:
            continue
        shape: Any = node.args[1]
        given = [*node.args[2:4], node.kwargs.get("weight"), node.kwargs.get("bias")]
        if any(isinstance(value, Node) for value in given):
            continue
        if not all(isinstance(size, int) for size in shape):
            continue
        ones = torch.ones(*shape, dtype=node.meta["val"].dtype)
        first = next(iter(program.graph.nodes))
        read = program.add_weight(program.fresh_name(f"{node.name}.weight"), ones, first)
        node.args = (*node.args[:2], read, *node.args[3:])
        node.kwargs = {key: value for key, value in node.kwargs.items() if key != "weight"}
        changes.append(Change(node.name, "given a weight of ones"))
    return changes
