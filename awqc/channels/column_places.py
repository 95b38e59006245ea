"""Weights that can take one scale on their rows and another on their columns."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Graph, Node

from awqc.graph.families import CONVOLUTIONS, TRANSPOSED
from awqc.graph.linears import conv_options
from awqc.graph.ops import argument

aten = torch.ops.aten


def column_places(graph: Graph) -> dict[Node, Node]:
    """For each weight that products and lookups alone read, a node for its columns' labels.

    An element of a value has one label. A matrix ``diag(r) W diag(c)`` needs two: the labels
    of its rows stand at its own node, those of its columns at the one given here.
    """
    places: dict[Node, Node] = {}
    beside = Graph()
    for node in graph.nodes:
        if node.op != "get_attr" or not node.users:
            continue
        value = node.meta["val"]
        if not value.dtype.is_floating_point or value.ndim < 2:
            continue
        if all(_multiplies(user, node) for user in node.users):
            places[node] = beside.get_attr(str(node.target))
            places[node].meta["val"] = value
    return places


def _multiplies(user: Node, weight: Node) -> bool:
    """Whether ``user`` reads ``weight`` as its matrix, and as nothing else."""
    if user.target is aten.embedding.default:
        return argument(user, "weight") is weight
    if user.target is not aten.linear.default and user.target not in (*CONVOLUTIONS, *TRANSPOSED):
        return False
    others = argument(user, "input"), argument(user, "bias")
    return argument(user, "weight") is weight and weight not in others and not is_depthwise(user)


def groups_of(node: Node) -> Any:
    """Groups of a convolution, transposed or not; 1 for a matrix product.

    A node where they follow from a size, as where each sample has a kernel of its own.
    """
    if node.target in CONVOLUTIONS:
        return conv_options(node)["groups"]
    if node.target in TRANSPOSED:
        return argument(node, "groups")
    return 1


def is_depthwise(node: Node) -> bool:
    """Whether each group of a convolution reads a single channel."""
    groups = groups_of(node)
    weight = argument(node, "weight")
    assert isinstance(weight, Node)
    if not isinstance(groups, int):
        return False
    inside = weight.meta["val"].shape[0 if node.target in TRANSPOSED else 1]
    return groups > 1 and int(inside) == (groups if node.target in TRANSPOSED else 1)
