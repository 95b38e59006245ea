"""Bilinear operations: linear, convolution, matmul, attention, embedding."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from awqc.channels.flow import Alternative, Flow, alternatives, describe, rule
from awqc.channels.labels import merge_axes, strongest
from awqc.linears import CONVOLUTIONS, conv_options

aten = torch.ops.aten


def _clash(flow: Flow, node: Node, *values: Any) -> bool:
    """Pin ``values`` where both what a product reads and what it makes would be scaled."""
    for value in values:
        if isinstance(value, Node):
            flow.pin(value, f"{describe(node)} would need a scale on its input and its output")
    return True


# (x / s) (W s)^T = x W^T          x (W / s)^T + b / s = y / s
@rule(aten.linear.default)
def linear(flow: Flow, node: Node) -> None:
    """Columns of W undo a scale on x; rows of W, and the bias, make one on y."""
    x, weight = node.args[0], node.args[1]
    bias = node.args[2] if len(node.args) > 2 else node.kwargs.get("bias")
    columns = _lead_merged(flow, x)
    rows = _lead_merged(flow, node)
    _weight_sides(flow, node, x, weight, bias, columns.reshape(1, -1), rows.reshape(-1, 1))


def _lead_merged(flow: Flow, node: Any) -> Tensor:
    """Labels along the last axis, made equal along all others."""
    labels = flow.get(node)
    if labels.ndim > 1 and flow.scaled(node):
        labels = merge_axes(flow.classes, labels, range(labels.ndim - 1))
        flow.assign(node, labels)
    return labels.reshape(-1)


def _weight_sides(
    flow: Flow, node: Node, x: Any, weight: Any, bias: Any, columns: Tensor, rows: Tensor
) -> None:
    """The equation ``out[n] = x[k] + W[n, k]`` between labels.

    ``columns`` are x's labels and ``rows`` the result's, each shaped as the weight has them;
    where the weight itself is scaled from elsewhere, x or the result follows.
    """
    has_columns, has_rows = bool((columns != 0).any()), bool((rows != 0).any())
    if has_columns and has_rows:
        _clash(flow, node, x, node)
        return
    if has_columns:
        flow.assign(weight, -columns)
        return
    if has_rows:
        flow.assign(weight, rows)
        if isinstance(bias, Node):
            flow.assign(bias, rows.reshape(-1))
        return
    if flow.scaled(weight):
        labels = flow.get(weight)
        if labels.shape[1] == 1 and labels.shape[0] > 1:
            flow.assign(node, _on_channels(node, labels.reshape(-1)))
        else:
            labels = merge_axes(flow.classes, labels, [0])
            flow.assign(x, -_on_channels(x, labels.reshape(-1)))
    elif isinstance(bias, Node) and flow.scaled(bias):
        flow.assign(node, _on_channels(node, flow.get(bias)))


def _on_channels(node: Any, labels: Tensor) -> Tensor:
    """Labels by channel, shaped for ``node``: last axis, or axis 1 around a convolution."""
    rank = len(node.meta["val"].shape)
    axis = rank - 1
    if any(user.target in CONVOLUTIONS for user in (node, *node.users)):
        axis = _channel_axis(node)
    return labels.reshape([-1 if i == axis else 1 for i in range(rank)])


def _channel_axis(node: Node) -> int:
    """The channel axis of a convolution's input or result: 0 without a batch axis, else 1."""
    convolution = next(n for n in (node, *node.users) if n.target in CONVOLUTIONS)
    return 0 if len(node.meta["val"].shape) == CONVOLUTIONS[convolution.target] + 1 else 1


@rule(*CONVOLUTIONS)
def convolution(flow: Flow, node: Node) -> None:
    """As `linear`, on input and output channels; zero padding stays zero."""
    x, weight = node.args[0], node.args[1]
    bias = node.args[2] if len(node.args) > 2 else node.kwargs.get("bias")
    assert isinstance(weight, Node)
    groups = int(conv_options(node)["groups"])
    weight_shape = flow.shapes.shape(weight)
    kernel = (1,) * CONVOLUTIONS[node.target]
    columns = _channel_labels(flow, x)
    if groups > 1 and columns.numel() > 1:
        columns = columns.reshape(groups, -1)
        columns = columns.repeat_interleave(weight_shape[0] // groups, dim=0)
    else:
        columns = columns.reshape(1, -1)
    rows = _channel_labels(flow, node).reshape(-1, 1)
    if groups > 1 and not bool((columns != 0).any()) and not bool((rows != 0).any()):
        flow.pin(weight, f"{describe(node)} shares its grouped weight with a scaled product")
        return
    _weight_sides(
        flow, node, x, weight, bias, columns.reshape(*columns.shape, *kernel),
        rows.reshape(*rows.shape, *kernel),
    )


def _channel_labels(flow: Flow, node: Any) -> Tensor:
    """Labels along the channel axis, made equal along all others."""
    labels = flow.get(node)
    axis = _channel_axis(node)
    if flow.scaled(node):
        others = [i for i in range(labels.ndim) if i != axis]
        labels = merge_axes(flow.classes, labels, others)
        flow.assign(node, labels)
    return labels.reshape(-1)


# x (W / s) = (x W) / s  on out channels;  a transposed convolution's weight is (in, out, …)
@rule(aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input)
def transposed_convolution(flow: Flow, node: Node) -> None:
    """As `convolution` with the weight's first two axes exchanged; one group only."""
    x, weight = node.args[0], node.args[1]
    bias = node.args[2] if len(node.args) > 2 else None
    groups = node.args[6] if len(node.args) > 6 else node.kwargs.get("groups", 1)
    rank = len(node.meta["val"].shape)
    if groups != 1:
        for value in (x, weight, bias, node):
            flow.pin(value, f"{describe(node)} is grouped and transposed")
        return
    others = [i for i in range(rank) if i != 1]
    columns = merge_axes(flow.classes, flow.get(x), others).reshape(-1)
    rows = merge_axes(flow.classes, flow.get(node), others).reshape(-1)
    has_columns, has_rows = bool((columns != 0).any()), bool((rows != 0).any())
    tail = (1,) * (rank - 2)
    if has_columns and has_rows:
        _clash(flow, node, x, node)
    elif has_columns:
        flow.assign(x, columns.reshape(1, -1, *tail))
        flow.assign(weight, -columns.reshape(-1, 1, *tail))
    elif has_rows:
        flow.assign(node, rows.reshape(1, -1, *tail))
        flow.assign(weight, rows.reshape(1, -1, *tail))
        if isinstance(bias, Node):
            flow.assign(bias, rows)
    elif flow.scaled(weight):
        flow.pin(weight, f"{describe(node)} shares its weight with a scaled product")


# y[m, n] = sum_k a[m, k] b[k, n]
@rule(aten.matmul.default, aten.bmm.default, aten.mm.default)
def matmul(flow: Flow, node: Node) -> None:
    """A scale on k must cancel; one on m comes from a, one on n from b."""
    a, b = node.args[:2]
    assert isinstance(a, Node)
    assert isinstance(b, Node)
    if min(len(a.meta["val"].shape), len(b.meta["val"].shape)) < 2:
        for value in (a, b, node):
            flow.pin(value, f"{describe(node)} multiplies by a vector")
        return
    left, right, out = flow.scaled(a), flow.scaled(b), flow.scaled(node)
    if left and right:
        _cancel(flow, node, a, b)
    elif left:
        labels = flow.get(a)
        if labels.shape[-1] > 1:
            labels = merge_axes(flow.classes, labels, [labels.ndim - 2])
            flow.assign(a, labels)
            flow.assign(b, -labels.transpose(-1, -2))
        else:
            flow.assign(node, labels)
    elif right:
        labels = flow.get(b)
        if labels.shape[-2] > 1:
            labels = merge_axes(flow.classes, labels, [labels.ndim - 1])
            flow.assign(b, labels)
            flow.assign(a, -labels.transpose(-1, -2))
        else:
            flow.assign(node, labels)
    elif out:
        flow.choose(node)


def _cancel(flow: Flow, node: Node, a: Node, b: Node) -> None:
    """Both operands are scaled: only scales along k that undo each other are legal."""
    left, right = flow.get(a), flow.get(b)
    if left.shape[-2] == 1 and right.shape[-1] == 1 and not flow.scaled(node):
        flow.assign(a, -right.transpose(-1, -2))
        flow.assign(b, -left.transpose(-1, -2))
    else:
        _clash(flow, node, a, b, node)


@alternatives(aten.matmul.default, aten.bmm.default, aten.mm.default)
def matmul_alternatives(flow: Flow, node: Node) -> list[Alternative]:
    """A scale on the result comes from columns of b, or from rows of a."""
    a, b = node.args[:2]
    assert isinstance(a, Node)
    assert isinstance(b, Node)
    out = flow.get(node)
    if flow.scaled(a) or flow.scaled(b) or not flow.scaled(node):
        return []
    from_b, from_a = out.shape[-2] == 1, out.shape[-1] == 1
    options = []
    if from_b or not from_a:
        labels = strongest(out, out.ndim - 2)
        options.append(Alternative(b, labels))
    if from_a or not from_b:
        labels = strongest(out, out.ndim - 1)
        options.append(Alternative(a, labels))
    return options


# softmax(q k^T) (v / s) = (softmax(q k^T) v) / s
@rule(aten.scaled_dot_product_attention.default)
def attention(flow: Flow, node: Node) -> None:
    """Linear in v: channels pass, tied along the keys and over the heads that share a v."""
    query, key, value = node.args[:3]
    for operand in (query, key):
        flow.pin(operand, f"{describe(node)} takes a softmax of it")
    assert isinstance(value, Node)
    mask = node.args[3] if len(node.args) > 3 else node.kwargs.get("attn_mask")
    if isinstance(mask, Node):
        flow.pin(mask, f"{describe(node)} takes a softmax of it")
    rank = len(node.meta["val"].shape)
    if flow.scaled(node):
        labels = merge_axes(flow.classes, flow.get(node), [rank - 2])
        flow.assign(node, labels)
        if rank >= 3 and labels.shape[-3] > 1:
            heads = flow.shapes.shape(value)[-3]
            lead, tail = labels.shape[:-3], labels.shape[-2:]
            labels = labels.reshape(*lead, heads, -1, *tail)
            labels = merge_axes(flow.classes, labels, [labels.ndim - 3]).squeeze(-3)
        flow.assign(value, labels)
    if flow.scaled(value):
        labels = merge_axes(flow.classes, flow.get(value), [rank - 2])
        flow.assign(value, labels)
        if rank >= 3 and labels.shape[-3] > 1:
            repeat = flow.shapes.shape(node)[-3] // flow.shapes.shape(value)[-3]
            labels = labels.repeat_interleave(repeat, dim=-3)
        flow.assign(node, labels)


# embedding(W / s) = embedding(W) / s  with a scale for each column
@rule(aten.embedding.default)
def embedding(flow: Flow, node: Node) -> None:
    """Columns of the table absorb."""
    table = node.args[0]
    labels = _lead_merged(flow, node)
    flow.assign(table, labels.reshape(1, -1))
    if flow.scaled(table):
        merged = merge_axes(flow.classes, flow.get(table), [0])
        flow.assign(table, merged)
        flow.assign(node, merged.reshape((1,) * (len(node.meta["val"].shape) - 1) + (-1,)))
