"""Normalizations: the affine tensors behind them absorb, their input cannot be scaled."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.fx import Node

from awqc.channels.flow import Flow, describe, rule
from awqc.channels.labels import merge_axes
from awqc.graph.families import CHANNEL_NORMS, LAYER_NORMS
from awqc.graph.ops import argument, first_argument, has_argument

aten = torch.ops.aten


# norm(x) * w / s + b / s = norm(x) * (w / s) + (b / s)
def _affine(flow: Flow, node: Node, axes: list[int]) -> None:
    """Weight and bias, along ``axes`` of the result, take the labels of the result."""
    weight = argument(node, "weight")
    bias = argument(node, "bias") if has_argument(node.target, "bias") else None
    flow.pin(first_argument(node), f"{describe(node)} normalises it")
    result = flow.outputs(node).get(0)
    if result is None:
        return
    if not isinstance(weight, Node):
        flow.pin(result, f"{describe(node)} has no weight that could absorb a scale")
        return
    rank = len(result.meta["val"].shape)
    axes = [axis % rank for axis in axes]
    others = [axis for axis in range(rank) if axis not in axes]
    if flow.scaled(result):
        labels = merge_axes(flow.classes, flow.get(result), others)
        flow.assign(result, labels)
        for tensor in (weight, bias):
            if isinstance(tensor, Node):
                flow.assign(tensor, labels.reshape([labels.shape[axis] for axis in axes]))
    for tensor in (weight, bias):
        if isinstance(tensor, Node) and flow.scaled(tensor):
            flow.assign(result, _at(flow.get(tensor), axes, rank))


def _at(labels: Tensor, axes: list[int], rank: int) -> Tensor:
    """``labels`` of an affine tensor as labels of a result of ``rank``."""
    shape = [1] * rank
    for axis, size in zip(axes, labels.shape, strict=True):
        shape[axis] = size
    return labels.reshape(shape)


@rule(*LAYER_NORMS, aten.native_layer_norm.default, aten._fused_rms_norm.default)
def last_axes_norm(flow: Flow, node: Node) -> None:
    """Norms over the trailing axes, whose weight has those axes."""
    _affine(flow, node, [-i for i in range(len(argument(node, "normalized_shape")), 0, -1)])


@rule(
    *CHANNEL_NORMS,
    aten.batch_norm.default,
    aten._native_batch_norm_legit_no_training.default,
    aten.native_batch_norm.default,
    aten.cudnn_batch_norm.default,
    aten.native_group_norm.default,
)
def channel_norm(flow: Flow, node: Node) -> None:
    """Norms for each channel, or for groups of them, whose weight is along axis 1."""
    _affine(flow, node, [1])
