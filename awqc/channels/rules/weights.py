"""Products with a weight: linear, convolutions, embedding."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from awqc.channels.column_places import groups_of, is_depthwise
from awqc.channels.flow import Alternative, Flow, alternatives, describe, rule
from awqc.channels.labels import merge_axes
from awqc.channels.rules.elementwise import absorbs
from awqc.graph.families import CONVOLUTIONS, TRANSPOSED
from awqc.graph.ops import argument, leading_arguments

aten = torch.ops.aten


# (x / s) (W s)^T = x W^T          x (W / s)^T + b / s = y / s
@rule(aten.linear.default)
def linear(flow: Flow, node: Node) -> None:
    """Columns of W undo a scale on x; rows of W, and the bias, make one on y."""
    _product(flow, node, spatial=0, transposed=False)


@rule(*CONVOLUTIONS)
def convolution(flow: Flow, node: Node) -> None:
    """As `linear`, on input and output channels; zero padding stays zero."""
    _product(flow, node, CONVOLUTIONS[node.target], transposed=False)


@rule(*TRANSPOSED)
def transposed_convolution(flow: Flow, node: Node) -> None:
    """As `convolution`, with the first two axes of the weight exchanged."""
    _product(flow, node, TRANSPOSED[node.target], transposed=True)


def _product(flow: Flow, node: Node, spatial: int, transposed: bool) -> None:
    """The equation ``y[g, n] = x[g, k] + W[g, n, k] = b[g, n]`` between labels, per group g."""
    x, weight, bias = leading_arguments(node, 3)
    groups = int(flow.shapes.concrete(groups_of(node)))
    if len(weight.meta["val"].shape) == 1:
        for value in (x, weight, bias, node):
            flow.pin(value, f"{describe(node)} multiplies by a vector")
        return
    if isinstance(bias, Node) and flow.scaled(bias):
        _assign_channels(flow, node, spatial, flow.get(bias))
    if spatial and is_depthwise(node):
        _depthwise(flow, node, spatial)
        return
    if weight in flow.columns:
        _rows(flow, node, spatial, groups, transposed)
        _columns(flow, node, spatial, groups, transposed)
        return
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


def _rows(flow: Flow, node: Node, spatial: int, groups: int, transposed: bool) -> None:
    """``y[g, n] = W[g, n] = b[g, n]``: what is on the rows of W is on y."""
    _, weight, bias = leading_arguments(node, 3)
    if flow.scaled(node):
        rows = _channels(flow, node, spatial).reshape(groups, -1, 1)
        _assign_weight(flow, weight, rows, spatial, transposed)
    if flow.scaled(weight):
        found = _weight_labels(flow, weight, spatial, groups, transposed)
        found = merge_axes(flow.classes, found, [2])
        _assign_weight(flow, weight, found, spatial, transposed)
        _assign_channels(flow, node, spatial, found)
    if isinstance(bias, Node) and flow.scaled(node):
        flow.assign(bias, _channels(flow, node, spatial))


def _columns(flow: Flow, node: Node, spatial: int, groups: int, transposed: bool) -> None:
    """``0 = x[g, k] + W[g, k]``: what is on the columns of W is undone on x."""
    x, weight = leading_arguments(node, 2)
    columns = flow.columns[weight]
    if flow.scaled(x):
        labels = -_channels(flow, x, spatial).reshape(groups, 1, -1)
        _assign_weight(flow, columns, labels, spatial, transposed)
    if flow.scaled(columns):
        found = _weight_labels(flow, columns, spatial, groups, transposed)
        found = merge_axes(flow.classes, found, [1])
        _assign_weight(flow, columns, found, spatial, transposed)
        _assign_channels(flow, x, spatial, -found)


# w[c, m] (x[c] / s[c]) = (w x)[c, m] / s[c]
def _depthwise(flow: Flow, node: Node, spatial: int) -> None:
    """One channel in for each group: a product with the kernel, ``y = x + w`` between labels."""
    x, weight, bias = leading_arguments(node, 3)
    a, b, out = _depthwise_labels(flow, node, spatial)
    clash = (a != 0) & (b != 0) & ((a != -b) | (out != 0))
    if bool(clash.any()):
        for value in (x, weight, node):
            flow.pin(value, f"{describe(node)} multiplies two scaled values")
        return
    if isinstance(bias, Node) and bool((out != 0).any()):
        flow.assign(bias, out)
    single = (a != 0).int() + (b != 0).int() + (out != 0).int() == 1
    if bool(single.any()):
        flow.choose(node)
    _assign_channels(flow, node, spatial, torch.where((b == 0) & (out != 0), a, 0))
    _assign_kernel(flow, weight, torch.where((a == 0) & (b != 0) & (out != 0), out, 0))


def _depthwise_labels(flow: Flow, node: Node, spatial: int) -> tuple[Tensor, Tensor, Tensor]:
    """Labels of input, kernel and output of a depthwise product, a row an output channel."""
    x, weight = leading_arguments(node, 2)
    out = _channels(flow, node, spatial)
    a = _channels(flow, x, spatial)
    a = a.repeat_interleave(out.numel() // a.numel())
    shape = flow.shapes.shape(weight)
    labels = flow.get(weight)
    if flow.scaled(weight):
        labels = merge_axes(flow.classes, labels, range(2, labels.ndim))
        flow.assign(weight, labels)
    return a, labels.expand(*shape[:2], *(1,) * spatial).reshape(-1), out


def _assign_kernel(flow: Flow, weight: Any, labels: Tensor) -> None:
    """Give a depthwise kernel ``labels``, one an output channel."""
    shape = flow.shapes.shape(weight)
    flow.assign(weight, labels.reshape(*shape[:2], *(1,) * (len(shape) - 2)))


@alternatives(*CONVOLUTIONS, *TRANSPOSED)
def depthwise_alternatives(flow: Flow, node: Node) -> list[Alternative]:
    """What is scaled on one side of a depthwise product stops in the kernel, or goes through."""
    spatial = CONVOLUTIONS.get(node.target) or TRANSPOSED[node.target]
    x, weight = leading_arguments(node, 2)
    a, b, out = _depthwise_labels(flow, node, spatial)
    single = (a != 0).int() + (b != 0).int() + (out != 0).int() == 1
    if not bool(single.any()):
        return []
    a, b, out = (torch.where(single, labels, 0) for labels in (a, b, out))
    shape = flow.shapes.shape(weight)
    kernel = (out - a).reshape(*shape[:2], *(1,) * spatial)
    at = [1] * len(node.meta["val"].shape)
    at[-1 - spatial] = -1
    options = [
        Alternative(weight, kernel),
        Alternative(node, (a + b).reshape(at)),
        Alternative(x, _narrowed(flow, out - b, flow.shapes.shape(x)[-1 - spatial]).reshape(at)),
    ]
    return [
        option
        for option in options
        if bool((option.labels != 0).any()) and (option.node is not weight or absorbs(flow, weight))
    ]


def _narrowed(flow: Flow, labels: Tensor, channels: int) -> Tensor:
    """Labels of output channels as labels of the ``channels`` that each several are made of."""
    return merge_axes(flow.classes, labels.reshape(channels, -1), [1]).reshape(-1)


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


def _weight_labels(flow: Flow, weight: Any, spatial: int, groups: int, transposed: bool) -> Tensor:
    """Labels of a weight as ``(groups, rows, columns)``, the same for all of a kernel.

    An axis along which they agree has size 1, if there is one group.
    """
    labels = merge_axes(flow.classes, flow.get(weight), range(2, 2 + spatial)).flatten(1)
    if groups > 1:
        labels = labels.expand(flow.shapes.shape(weight)[:2])
    labels = labels.reshape(groups, -1, labels.shape[1])
    return labels.transpose(1, 2) if transposed else labels


def _assign_weight(flow: Flow, weight: Any, labels: Tensor, spatial: int, transposed: bool) -> None:
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
    table = argument(node, "weight")
    if table in flow.columns:
        flow.pin(table, f"{describe(node)} looks its rows up")
        table = flow.columns[table]
    flow.assign(table, _channels(flow, node, 0).reshape(1, -1))
    if flow.scaled(table):
        merged = merge_axes(flow.classes, flow.get(table), [0])
        flow.assign(table, merged)
        _assign_channels(flow, node, 0, merged)
