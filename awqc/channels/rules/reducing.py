"""Operations that mix elements along some axes: labels there must be equal."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from awqc.channels.flow import Flow, describe, rule
from awqc.channels.labels import merge_axes
from awqc.channels.rules.elementwise import same
from awqc.channels.rules.moving import picked_axes
from awqc.graph.families import CASTS, COPIES, REDUCTIONS
from awqc.graph.ops import argument, first_argument, has_argument, leading_arguments

aten = torch.ops.aten


def mixing(flow: Flow, node: Node, axes: list[int], *values: Any) -> None:
    """``values`` have one rank and carry the same labels, which are constant along ``axes``."""
    for value in values:
        if isinstance(value, Node) and flow.scaled(value):
            flow.assign(value, merge_axes(flow.classes, flow.get(value), axes))
    same(flow, *values)


# pool(x / s) = pool(x) / s with s constant over the window
def _spatial(*targets: Any, rank: int) -> None:
    @rule(*targets)
    def pooling(flow: Flow, node: Node) -> None:
        dims = len(node.meta["val"].shape) if not isinstance(node.meta["val"], tuple | list) else 0
        x = first_argument(node)
        dims = dims or len(x.meta["val"].shape)
        mixing(flow, node, list(range(dims - rank, dims)), x, flow.outputs(node).get(0))


_spatial(
    aten.max_pool1d.default,
    aten.avg_pool1d.default,
    aten.adaptive_avg_pool1d.default,
    aten.adaptive_max_pool1d.default,
    aten.max_pool1d_with_indices.default,
    aten.upsample_nearest1d.default,
    aten.upsample_linear1d.default,
    aten._upsample_nearest_exact1d.default,
    aten._upsample_nearest_exact1d.vec,
    aten.upsample_nearest1d.vec,
    aten.upsample_linear1d.vec,
    rank=1,
)
_spatial(
    aten.max_pool2d.default,
    aten.max_pool2d_with_indices.default,
    aten.avg_pool2d.default,
    aten.adaptive_avg_pool2d.default,
    aten.adaptive_max_pool2d.default,
    aten._adaptive_avg_pool2d.default,
    aten.upsample_nearest2d.vec,
    aten.upsample_nearest2d.default,
    aten.upsample_bilinear2d.vec,
    aten.upsample_bilinear2d.default,
    aten.upsample_bicubic2d.vec,
    aten.upsample_bicubic2d.default,
    aten._upsample_nearest_exact2d.default,
    aten._upsample_nearest_exact2d.vec,
    aten._upsample_bilinear2d_aa.default,
    aten._upsample_bilinear2d_aa.vec,
    aten._upsample_bicubic2d_aa.default,
    aten._upsample_bicubic2d_aa.vec,
    aten.max_unpool2d.default,
    rank=2,
)
_spatial(
    aten.max_pool3d.default,
    aten.avg_pool3d.default,
    aten.adaptive_avg_pool3d.default,
    aten.upsample_nearest3d.vec,
    aten.upsample_trilinear3d.vec,
    aten.upsample_nearest3d.default,
    aten.upsample_trilinear3d.default,
    aten.max_pool3d_with_indices.default,
    aten.adaptive_max_pool3d.default,
    rank=3,
)


# sum(x / s) = sum(x) / s with s constant along the summed axes
@rule(
    *REDUCTIONS,
    aten.mean.default,
    aten.sum.default,
    aten.max.dim,
    aten.min.dim,
    aten.max.default,
    aten.min.default,
    aten.nansum.default,
    aten.nanmean.default,
    aten.median.default,
    aten.std.dim,
    aten.std.correction,
    aten.std.default,
    aten.linalg_vector_norm.default,
    aten.norm.ScalarOpt_dim,
    aten.norm.ScalarOpt_dim_dtype,
)
def reduction(flow: Flow, node: Node) -> None:
    """Sums, means, extremes, norms and deviations along axes."""
    x = argument(node, "self")
    rank = len(x.meta["val"].shape)
    order = next((name for name in ("ord", "p") if has_argument(node.target, name)), None)
    if order is not None and argument(node, order) == 0:
        flow.pin(x, f"{describe(node)} counts what is not zero")
        return
    given = argument(node, "dim") if has_argument(node.target, "dim") else None
    axes = (
        list(range(rank))
        if not given and given != 0
        else ([given] if isinstance(given, int) else list(given))
    )
    axes = [axis % rank for axis in axes]
    result = flow.outputs(node).get(0)
    kept = len(result.meta["val"].shape) == rank if result is not None else True
    labels = merge_axes(flow.classes, flow.get(x), axes)
    flow.assign(x, labels)
    if result is None:
        return
    flow.assign(result, labels if kept else _drop(labels, axes))
    back = flow.get(result)
    flow.assign(x, merge_axes(flow.classes, back, axes) if kept else _restore(back, axes))


def _drop(labels: torch.Tensor, axes: list[int]) -> torch.Tensor:
    return labels.reshape([size for i, size in enumerate(labels.shape) if i not in axes])


def _restore(labels: torch.Tensor, axes: list[int]) -> torch.Tensor:
    for axis in sorted(axes):
        labels = labels.unsqueeze(axis)
    return labels


@rule(aten.cumsum.default)
def cumulative(flow: Flow, node: Node) -> None:
    """Running sums along an axis."""
    axis = argument(node, "dim") % len(node.meta["val"].shape)
    mixing(flow, node, [axis], argument(node, "self"), node)


# sample(x / s, grid) = sample(x, grid) / s with s constant over space
@rule(aten.grid_sampler.default)
def grid_sample(flow: Flow, node: Node) -> None:
    """Interpolation at given places; padding is with zeros or the border."""
    axes = list(range(2, len(node.meta["val"].shape)))
    mixing(flow, node, axes, argument(node, "input"), node)
    flow.pin(argument(node, "grid"), f"{describe(node)} samples at it")


# y = x;  y[i] += src   scaled alike, s constant along the picked axis
@rule(aten.index_add.default, aten.index_copy.default, aten.scatter_add.default, aten.scatter.src)
def scatter(flow: Flow, node: Node) -> None:
    """Rows added or copied at places known only when it runs."""
    axis = argument(node, "dim") % len(node.meta["val"].shape)
    added = argument(node, "source" if has_argument(node.target, "source") else "src")
    mixing(flow, node, [axis], argument(node, "self"), added, node)


# y = x;  y[i] = max(y[i], src)   and sums and means alike
@rule(aten.scatter_reduce.two)
def scatter_reduce(flow: Flow, node: Node) -> None:
    """As `scatter`; a product of scaled values is refused."""
    if argument(node, "reduce") == "prod":
        for value in (*node.all_input_nodes, node):
            flow.pin(value, f"{describe(node)} multiplies scaled values")
        return
    scatter(flow, node)


# sum of the patches that overlap at a place, with s constant over a patch and over places
@rule(aten.col2im.default)
def fold_patches(flow: Flow, node: Node) -> None:
    """``(batch, channels * patch, places)`` to ``(batch, channels, height, width)``."""
    x, kernel = argument(node, "self"), argument(node, "kernel_size")
    patch = int(kernel[0]) * int(kernel[1])
    lead = len(x.meta["val"].shape) - 2
    labels = flow.get(x).expand(flow.shapes.shape(x))
    labels = labels.unflatten(lead, (-1, patch))
    flow.assign(node, merge_axes(flow.classes, labels, [lead + 1, lead + 2]))
    back = merge_axes(flow.classes, flow.get(node), [lead + 1, lead + 2])
    flow.assign(node, back)
    channels = flow.shapes.shape(x)[lead] // patch
    back = back.squeeze(-1).expand(*back.shape[:lead], channels, 1)
    flow.assign(x, back.repeat_interleave(patch, dim=lead))


@rule(aten.index_put.default)
def index_put(flow: Flow, node: Node) -> None:
    """Values put or added at places along the leading axes."""
    axes, _, _ = picked_axes(argument(node, "indices"))
    mixing(flow, node, axes, argument(node, "self"), node)
    values = argument(node, "values")
    rank = len(node.meta["val"].shape)
    kept = rank - len(axes)
    if axes != list(range(len(axes))) or len(values.meta["val"].shape) < kept:
        for value in (*node.all_input_nodes, node):
            flow.pin(value, f"{describe(node)} puts values along inner axes")
        return
    labels = merge_axes(flow.classes, flow.get(node), axes)
    lead = len(values.meta["val"].shape) - kept
    flow.assign(values, labels.reshape((1,) * lead + labels.shape[len(axes) :]))
    back = merge_axes(flow.classes, flow.get(values), range(lead))
    flow.assign(node, back.reshape((1,) * len(axes) + back.shape[lead:]))


# y = x with elements of source where mask, one after the other
@rule(aten.masked_scatter.default)
def masked_scatter(flow: Flow, node: Node) -> None:
    """Rows of the source go to unknown rows: labels follow the last axis, if rows stay whole."""
    x, mask, source = leading_arguments(node, 3)
    rank, given = len(x.meta["val"].shape), len(source.meta["val"].shape)
    whole = _same_along_rows(mask) and x.meta["val"].shape[-1] == source.meta["val"].shape[-1]
    axes = list(range(rank - 1 if whole else rank))
    mixing(flow, node, axes, x, node)
    if flow.scaled(source):
        labels = flow.get(source)
        labels = merge_axes(flow.classes, labels, range(given - 1 if whole else given))
        flow.assign(source, labels)
        flow.assign(node, labels.reshape(-1))
    flow.assign(source, flow.get(node).reshape(-1))


_COPIES = (aten.expand.default, aten.expand_as.default, *CASTS, *COPIES)


def _same_along_rows(mask: Any) -> bool:
    """Whether a mask is made by repeating one value along the last axis."""
    while isinstance(mask, Node) and mask.target in _COPIES:
        mask = first_argument(mask)
        if mask.meta["val"].shape[-1:] == (1,):
            return True
    return False
