"""Weights that are quantized as they are: no scale of ours would make them rounder.

A recurrent cell reads its own output through a sigmoid and a tanh, which no scale passes. A
transposed convolution's weight is ``(in_channels, …)``: each input channel has a quantization
scale of its own, so that a scale on it would change nothing.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Graph, Node

from awqc.channels.column_places import TRANSPOSED
from awqc.weights.stored import is_dequantizing, stored_weight

aten = torch.ops.aten
CELLS: dict[Any, int] = {
    aten.lstm.input: 2,
    aten.lstm.data: 3,
    aten.gru.input: 2,
    aten.gru.data: 3,
    aten.rnn_tanh.input: 2,
    aten.rnn_tanh.data: 3,
    aten.rnn_relu.input: 2,
    aten.rnn_relu.data: 3,
}
"""Recurrent networks, and where the list of their weights stands among the arguments."""


def cell_weights(graph: Graph) -> list[Node]:
    """What recurrent networks multiply by: tensors of the program, or what makes them."""
    found: dict[Node, None] = {}
    for node in graph.nodes:
        if node.op == "call_function" and node.target in CELLS:
            weights: Any = node.args[CELLS[node.target]]
            found.update(dict.fromkeys(w for w in weights if w.meta["val"].ndim == 2))
    return list(found)


def quantized_names(weight: Node) -> list[str]:
    """The name of the quantized weight that ``weight`` dequantizes, if it does."""
    return [stored_weight(weight).name] if is_dequantizing(weight) else []


def unscaled_weights(graph: Graph) -> list[Node]:
    """Reads of float tensors that recurrent cells or transposed convolutions alone multiply by."""
    kernels = [
        node.args[1]
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
    if user.target in CELLS:
        return weight in user.args[CELLS[user.target]]  # type: ignore[operator]
    return user.target in TRANSPOSED and user.args[1] is weight
