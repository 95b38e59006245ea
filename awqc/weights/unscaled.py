"""Weights that are quantized as they are: no scale of ours would make them rounder.

A recurrent cell reads its own output through a sigmoid and a tanh, which no scale passes. A
transposed convolution's weight is ``(in_channels, …)``: each input channel has a quantization
scale of its own, so that a scale on it would change nothing.
"""

from __future__ import annotations

from torch.fx import Graph, Node

from awqc.graph.families import RECURRENT, TRANSPOSED
from awqc.graph.ops import argument
from awqc.weights.stored import is_dequantizing, stored_weight


def cell_weights(graph: Graph) -> list[Node]:
    """What recurrent networks multiply by: tensors of the program, or what makes them."""
    found: dict[Node, None] = {}
    for node in graph.nodes:
        if node.op == "call_function" and node.target in RECURRENT:
            weights = argument(node, "params")
            found.update(dict.fromkeys(w for w in weights if w.meta["val"].ndim == 2))
    return list(found)


def quantized_names(weight: Node) -> list[str]:
    """The name of the quantized weight that ``weight`` dequantizes, if it does."""
    return [stored_weight(weight).name] if is_dequantizing(weight) else []


def unscaled_weights(graph: Graph) -> list[Node]:
    """Reads of float tensors that recurrent cells or transposed convolutions alone multiply by."""
    kernels = [
        argument(node, "weight")
        for node in graph.nodes
        if node.op == "call_function" and node.target in TRANSPOSED
    ]
    found: dict[Node, None] = {}
    for weight in (*cell_weights(graph), *kernels):
        if (
            isinstance(weight, Node)
            and weight.op == "get_attr"
            and weight.meta["val"].dtype.is_floating_point
            and all(_multiplies(user, weight) for user in weight.users)
        ):
            found[weight] = None
    return list(found)


def _multiplies(user: Node, weight: Node) -> bool:
    if user.target in RECURRENT:
        return weight in argument(user, "params")
    return user.target in TRANSPOSED and argument(user, "weight") is weight
