"""Operations that pick elements by their order, or that compare them."""

from __future__ import annotations

import torch
from torch.fx import Node

from awqc.channels.flow import Flow, describe, rule
from awqc.channels.labels import merge_axes
from awqc.channels.rules.elementwise import same
from awqc.channels.rules.reducing import mixing
from awqc.graph.ops import argument

aten = torch.ops.aten


# sort(x / s) = sort(x) / s with s constant along the axis: the order stays
@rule(
    aten.sort.default,
    aten.sort.stable,
    aten.msort.default,
    aten.topk.default,
    aten.cummax.default,
    aten.cummin.default,
)
def ordered(flow: Flow, node: Node) -> None:
    """The values carry the labels of the operand; the numbers of elements carry none."""
    x = argument(node, "self")
    axis = 0 if node.target is aten.msort.default else argument(node, "dim")
    mixing(flow, node, [axis % len(x.meta["val"].shape)], x, flow.outputs(node).get(0))


@rule(aten.median.dim, aten.nanmedian.dim, aten.kthvalue.default, aten.mode.default)
def element_of_rank(flow: Flow, node: Node) -> None:
    """As `ordered`; the axis is gone from the result unless it is kept with size 1."""
    x, result = argument(node, "self"), flow.outputs(node).get(0)
    rank = len(x.meta["val"].shape)
    axis = argument(node, "dim") % rank
    labels = merge_axes(flow.classes, flow.get(x), [axis])
    flow.assign(x, labels)
    if result is None:
        return
    kept = len(result.meta["val"].shape) == rank
    flow.assign(result, labels if kept else labels.squeeze(axis))
    back = flow.get(result) if kept else flow.get(result).unsqueeze(axis)
    flow.assign(x, merge_axes(flow.classes, back, [axis]))


# a / s > b / s  is  a > b
@rule(
    aten.gt.Tensor,
    aten.ge.Tensor,
    aten.lt.Tensor,
    aten.le.Tensor,
    aten.eq.Tensor,
    aten.ne.Tensor,
)
def compare(flow: Flow, node: Node) -> None:
    """Both operands carry the same scale, and the result none."""
    same(flow, argument(node, "self"), argument(node, "other"))
    flow.pin(node, f"{describe(node)} is a comparison")
