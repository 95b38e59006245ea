"""Products of two activations: matmul and attention."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from awqc.channels.flow import Alternative, Flow, alternatives, describe, rule
from awqc.channels.labels import merge_axes, strongest
from awqc.graph.families import MATMULS
from awqc.graph.ops import leading_arguments

aten = torch.ops.aten


def _clash(flow: Flow, node: Node, *values: Any) -> bool:
    """Pin ``values`` where both what a product reads and what it makes would be scaled."""
    for value in values:
        if isinstance(value, Node):
            flow.pin(value, f"{describe(node)} would need a scale on its input and its output")
    return True


# y[m, n] = sum_k a[m, k] b[k, n]
@rule(*MATMULS)
def matmul(flow: Flow, node: Node) -> None:
    """A scale on k must cancel; one on m comes from a, one on n from b."""
    a, b = leading_arguments(node, 2)
    if min(len(a.meta["val"].shape), len(b.meta["val"].shape)) < 2:
        for value in (a, b, node):
            flow.pin(value, f"{describe(node)} multiplies by a vector")
        return
    left, right, out = flow.scaled(a), flow.scaled(b), flow.scaled(node)
    if left and right:
        _cancel(flow, node, a, b)
    elif left and flow.get(a).shape[-1] > 1:
        labels = merge_axes(flow.classes, flow.get(a), [-2])
        flow.assign(a, labels)
        flow.assign(b, -labels.transpose(-1, -2))
    elif left:
        _follow(flow, node, a, -1)
    elif right and flow.get(b).shape[-2] > 1:
        labels = merge_axes(flow.classes, flow.get(b), [-1])
        flow.assign(b, labels)
        flow.assign(a, -labels.transpose(-1, -2))
    elif right:
        _follow(flow, node, b, -2)
    elif out:
        flow.choose(node)


def _follow(flow: Flow, node: Node, operand: Node, axis: int) -> None:
    """The result and ``operand`` carry the same labels, which are constant along ``axis``."""
    flow.assign(node, flow.get(operand))
    labels = merge_axes(flow.classes, flow.get(node), [axis])
    flow.assign(node, labels)
    flow.assign(operand, labels)


def _cancel(flow: Flow, node: Node, a: Node, b: Node) -> None:
    """Both operands are scaled: only scales along k that undo each other are legal."""
    left, right = flow.get(a), flow.get(b)
    if left.shape[-2] == 1 and right.shape[-1] == 1 and not flow.scaled(node):
        flow.assign(a, -right.transpose(-1, -2))
        flow.assign(b, -left.transpose(-1, -2))
    else:
        _clash(flow, node, a, b, node)


@alternatives(*MATMULS)
def matmul_alternatives(flow: Flow, node: Node) -> list[Alternative]:
    """A scale on the result comes from columns of b, or from rows of a."""
    a, b = leading_arguments(node, 2)
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
    return [option for option in options if option.node not in flow.neutral]


# softmax(q k^T) (v / s) = (softmax(q k^T) v) / s
@rule(aten.scaled_dot_product_attention.default)
def attention(flow: Flow, node: Node) -> None:
    """Linear in v: channels pass, tied along the keys and over the heads that share a v."""
    query, key, value, mask = leading_arguments(node, 4)
    for operand in (query, key):
        flow.pin(operand, f"{describe(node)} takes a softmax of it")
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
