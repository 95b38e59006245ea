"""Operations that pick elements by their order, or that compare them."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from awqc.channels.flow import Flow, describe, rule
from awqc.channels.labels import merge_axes
from awqc.channels.rules.elementwise import is_tensor, same
from awqc.channels.rules.reducing import mixing

aten = torch.ops.aten
DEFAULT_AXES: dict[Any, int] = {aten.msort.default: 0}
AXES: dict[Any, tuple[str, int]] = {
    aten.sort.default: ("dim", 1),
    aten.sort.stable: ("dim", 2),
    aten.msort.default: ("dim", 1),
    aten.topk.default: ("dim", 2),
    aten.cummax.default: ("dim", 1),
    aten.cummin.default: ("dim", 1),
}
"""The name and the position of the axis along which elements are ordered."""


# sort(x / s) = sort(x) / s with s constant along the axis: the order stays
@rule(
    aten.sort.default, aten.sort.stable, aten.msort.default, aten.topk.default,
    aten.cummax.default, aten.cummin.default,
)
def ordered(flow: Flow, node: Node) -> None:
    """The values carry the labels of the operand; the numbers of elements carry none."""
    x = node.args[0]
    assert isinstance(x, Node)
    name, position = AXES[node.target]
    given: Any = node.args[position] if len(node.args) > position else node.kwargs.get(name)
    axis = DEFAULT_AXES.get(node.target, -1) if given is None else given
    mixing(flow, node, [axis % len(x.meta["val"].shape)], x, flow.outputs(node).get(0))


@rule(aten.median.dim, aten.nanmedian.dim, aten.kthvalue.default, aten.mode.default)
def element_of_rank(flow: Flow, node: Node) -> None:
    """As `ordered`; the axis is gone from the result unless it is kept with size 1."""
    x, result = node.args[0], flow.outputs(node).get(0)
    assert isinstance(x, Node)
    rank = len(x.meta["val"].shape)
    position = 2 if node.target is aten.kthvalue.default else 1
    given: Any = node.args[position] if len(node.args) > position else node.kwargs.get("dim", -1)
    axis = given % rank
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
    aten.gt.Tensor, aten.ge.Tensor, aten.lt.Tensor, aten.le.Tensor, aten.eq.Tensor,
    aten.ne.Tensor,
)
def compare(flow: Flow, node: Node) -> None:
    """Both operands carry the same scale, and the result none."""
    same(flow, *(value for value in node.args[:2] if is_tensor(value)))
    flow.pin(node, f"{describe(node)} is a comparison")
