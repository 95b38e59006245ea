"""Normalizations: the affine tensors behind them absorb, their input cannot be scaled."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from awqc.channels.flow import Flow, describe, rule
from awqc.channels.labels import merge_axes

aten = torch.ops.aten


# norm(x) * w / s + b / s = norm(x) * (w / s) + (b / s)
def _affine(flow: Flow, node: Node, weight: Any, bias: Any, axes: list[int]) -> None:
    """``weight`` and ``bias``, along ``axes`` of the result, take the labels of the result."""
    flow.pin(node.args[0], f"{describe(node)} normalises it")
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


def _argument(node: Node, name: str, position: int) -> Any:
    return node.args[position] if len(node.args) > position else node.kwargs.get(name)


@rule(aten.layer_norm.default, aten.native_layer_norm.default, aten.rms_norm.default,
      aten._fused_rms_norm.default)
def last_axes_norm(flow: Flow, node: Node) -> None:
    """Norms over the trailing axes, whose weight has those axes."""
    axes = [-i for i in range(len(node.args[1]), 0, -1)]  # type: ignore[arg-type]
    _affine(flow, node, _argument(node, "weight", 2), _bias(node, 3), axes)


def _bias(node: Node, position: int) -> Any:
    if node.target in (aten.rms_norm.default, aten._fused_rms_norm.default):
        return None
    return _argument(node, "bias", position)


@rule(
    aten.batch_norm.default,
    aten.instance_norm.default,
    aten._native_batch_norm_legit_no_training.default,
    aten.native_batch_norm.default,
    aten.cudnn_batch_norm.default,
)
def channel_norm(flow: Flow, node: Node) -> None:
    """Norms for each channel, axis 1."""
    _affine(flow, node, _argument(node, "weight", 1), _argument(node, "bias", 2), [1])


@rule(aten.group_norm.default)
def group_norm(flow: Flow, node: Node) -> None:
    """``group_norm(x, groups, weight, bias)``: the weight is along axis 1."""
    _affine(flow, node, _argument(node, "weight", 2), _argument(node, "bias", 3), [1])


@rule(aten.native_group_norm.default)
def native_group_norm(flow: Flow, node: Node) -> None:
    """``native_group_norm(x, weight, bias, …)``: the weight is along axis 1."""
    _affine(flow, node, _argument(node, "weight", 1), _argument(node, "bias", 2), [1])
