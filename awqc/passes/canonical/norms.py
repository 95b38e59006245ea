"""Give norms a weight, so that a scale can be folded into it."""

from __future__ import annotations

import torch
from torch.fx import Node

from awqc.graph.families import CHANNEL_NORMS, LAYER_NORMS
from awqc.graph.ops import arguments, set_argument
from awqc.passes.base import Change
from awqc.program import Program


def give_norms_weights(program: Program) -> list[Change]:
    """``layer_norm(x, shape)  ->  layer_norm(x, shape, ones)``; other norms alike.

    Each norm gets a weight of its own: a shared one would tie their scales.
    """
    changes = []
    for node in list(program.graph.nodes):
        if node.op != "call_function" or node.target not in (*LAYER_NORMS, *CHANNEL_NORMS):
            continue
        given = arguments(node)
        if any(isinstance(given.get(name), Node) for name in ("weight", "bias")):
            continue
        value = node.meta["val"]
        shape = given.get("normalized_shape", [value.shape[1]])
        if not all(isinstance(size, int) for size in shape):
            continue
        first = next(iter(program.graph.nodes))
        ones = torch.ones(*shape, dtype=value.dtype)
        read = program.add_weight(program.fresh_name(f"{node.name}.weight"), ones, first)
        set_argument(node, "weight", read)
        changes.append(Change(node.name, "given a weight of ones"))
    return changes
