"""Products with a weight: linear, convolutions, embedding."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from awqc.channels.flow import Flow, describe, rule
from awqc.channels.labels import merge_axes
from awqc.linears import CONVOLUTIONS, conv_options

aten = torch.ops.aten
TRANSPOSED: dict[Any, int] = {
    aten.conv_transpose1d.default: 1,
    aten.conv_transpose2d.input: 2,
    aten.conv_transpose3d.input: 3,
}


# (x / s) (W s)^T = x W^T          x (W / s)^T + b / s = y / s
@rule(aten.linear.default)
def linear(flow: Flow, node: Node) -> None:
    """Columns of W undo a scale on x; rows of W, and the bias, make one on y."""
    _product(flow, node, spatial=0, groups=1, transposed=False)


@rule(*CONVOLUTIONS)
def convolution(flow: Flow, node: Node) -> None:
    """As `linear`, on input and output channels; zero padding stays zero."""
    groups = int(conv_options(node)["groups"])
    _product(flow, node, CONVOLUTIONS[node.target], groups, transposed=False)


@rule(*TRANSPOSED)
def transposed_convolution(flow: Flow, node: Node) -> None:
    """As `convolution`, with the first two axes of the weight exchanged."""
    groups = node.args[6] if len(node.args) > 6 else node.kwargs.get("groups", 1)
    _product(flow, node, TRANSPOSED[node.target], int(groups), transposed=True)  # type: ignore[arg-type]


def _product(flow: Flow, node: Node, spatial: int, groups: int, transposed: bool) -> None:
    """The equation ``y[g, n] = x[g, k] + W[g, n, k] = b[g, n]`` between labels, per group g."""
    x, weight = node.args[0], node.args[1]
    bias = node.args[2] if len(node.args) > 2 else node.kwargs.get("bias")
    assert isinstance(weight, Node)
    if len(weight.meta["val"].shape) == 1:
        for value in (x, weight, bias, node):
            flow.pin(value, f"{describe(node)} multiplies by a vector")
        return
    if isinstance(bias, Node) and flow.scaled(bias):
        _assign_channels(flow, node, spatial, flow.get(bias))
    columns = _channels(flow, x, spatial).reshape(groups, 1, -1)
    rows = _channels(flow, node, spatial).reshape(groups, -1, 1)
    has_columns, has_rows = bool((columns != 0).any()), bool((rows != 0).any())
    if has_columns and has_rows:
        for value in (x, node):
            flow.pin(value, f"{describe(node)} would need a scale on its input and its output")
        return
    if has_rows and isinstance(bias, Node):
        flow.assign(bias, rows.reshape(-1))
    _assign_weight(flow, weight, -columns if has_columns else rows, spatial, transposed)
    if not flow.scaled(weight):
        return
    found = _weight_labels(flow, weight, spatial, groups, transposed)
    by_rows = has_rows or (not has_columns and found.shape[2] == 1 and found.shape[1] > 1)
    found = merge_axes(flow.classes, found, [2 if by_rows else 1])
    _assign_weight(flow, weight, found, spatial, transposed)
    if by_rows:
        _assign_channels(flow, node, spatial, found)
    else:
        _assign_channels(flow, x, spatial, -found)


def _channels(flow: Flow, node: Any, spatial: int) -> Tensor:
    """Labels along the channel axis, made equal along all others: ``(channels,)``."""
    labels = flow.get(node)
    axis = labels.ndim - 1 - spatial
    size = flow.shapes.shape(node)[axis]
    if not flow.scaled(node):
        return torch.zeros(size, dtype=torch.int64)
    labels = merge_axes(flow.classes, labels, [i for i in range(labels.ndim) if i != axis])
    flow.assign(node, labels)
    return labels.reshape(-1).expand(size)


def _assign_channels(flow: Flow, node: Any, spatial: int, labels: Tensor) -> None:
    """Give ``node`` labels along its channel axis."""
    rank = len(node.meta["val"].shape)
    axis = rank - 1 - spatial
    flow.assign(node, labels.reshape([-1 if i == axis else 1 for i in range(rank)]))


def _weight_labels(
    flow: Flow, weight: Any, spatial: int, groups: int, transposed: bool
) -> Tensor:
    """Labels of a weight as ``(groups, rows, columns)``, the same for all of a kernel.

    An axis along which they agree has size 1, if there is one group.
    """
    labels = merge_axes(flow.classes, flow.get(weight), range(2, 2 + spatial)).flatten(1)
    if groups > 1:
        labels = labels.expand(flow.shapes.shape(weight)[:2])
    labels = labels.reshape(groups, -1, labels.shape[1])
    return labels.transpose(1, 2) if transposed else labels


def _assign_weight(
    flow: Flow, weight: Any, labels: Tensor, spatial: int, transposed: bool
) -> None:
    """Give a weight labels ``(groups, rows or 1, columns or 1)``."""
    labels = labels.transpose(1, 2) if transposed else labels
    groups = labels.shape[0]
    if groups > 1:
        labels = labels.expand(-1, flow.shapes.shape(weight)[0] // groups, -1)
    labels = labels.reshape(-1, labels.shape[2])
    flow.assign(weight, labels.reshape(*labels.shape, *(1,) * spatial))


# embedding(W / s) = embedding(W) / s  with a scale for each column
@rule(aten.embedding.default)
def embedding(flow: Flow, node: Node) -> None:
    """Columns of the table absorb."""
    table = node.args[0]
    assert isinstance(table, Node)
    flow.assign(table, _channels(flow, node, 0).reshape(1, -1))
    if flow.scaled(table):
        merged = merge_axes(flow.classes, flow.get(table), [0])
        flow.assign(table, merged)
        _assign_channels(flow, node, 0, merged)
