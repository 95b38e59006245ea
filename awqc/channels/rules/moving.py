"""Operations that only move elements: view, permute, slice, split, cat, expand, pad, …

They need no thought: the operation itself, run on a tensor of element numbers, tells which
element of which operand each result element is.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from awqc.channels.flow import Flow, describe, rule
from awqc.channels.labels import merge_axes
from awqc.channels.moves import Move
from awqc.graph.families import JOINS, PADS, REARRANGED, SPLITS
from awqc.graph.ops import argument, call, first_argument

aten = torch.ops.aten
MAX_KEPT = 100_000
UNWHOLE = (aten.im2col.default,)
"""Operations that torch has for floating numbers only."""


@rule(
    *REARRANGED,
    aten.expand_as.default,
    *SPLITS,
    *JOINS,
    *PADS,
    aten.t.default,
    aten.numpy_T.default,
    aten.movedim.intlist,
    aten.swapaxes.default,
    aten.squeeze.default,
    aten.narrow.default,
    aten.tensor_split.sections,
    aten.unbind.int,
    aten.broadcast_to.default,
    aten.tile.default,
    aten.repeat_interleave.self_int,
    aten.flip.default,
    aten.roll.default,
    aten.concat.default,
    aten.unfold.default,
    aten.diagonal.default,
    aten.pixel_shuffle.default,
    aten.pixel_unshuffle.default,
    aten.channel_shuffle.default,
    aten.reflection_pad1d.default,
    aten.reflection_pad2d.default,
    aten.reflection_pad3d.default,
    aten.replication_pad1d.default,
    aten.replication_pad2d.default,
    aten.replication_pad3d.default,
    aten.im2col.default,
    aten.diag_embed.default,
    aten.rot90.default,
    aten.unsafe_split.Tensor,
    aten.unsafe_split_with_sizes.default,
    aten.unsafe_chunk.default,
    aten.mH.default,
    aten.adjoint.default,
    aten.view_as.default,
    aten.reshape_as.default,
    aten.as_strided.default,
    aten.slice_scatter.default,
    aten.select_scatter.default,
    aten.diagonal_scatter.default,
    aten.copy.default,
)
def moving(flow: Flow, node: Node) -> None:
    """Every result element takes the label of the operand element that it is."""
    operands = [n for n in node.all_input_nodes if _carries(n)]
    results = flow.outputs(node)
    if not any(flow.scaled(value) for value in (*operands, *results.values())):
        return
    if not any(_carries(result) for result in results.values()):
        return  # a mask expanded as a scaled value takes its shape alone
    for result in results.values():
        flow.shapes.shape(result)  # an empty one would hide its labels: raises
    if node.target in PADS and not _pads_neutrally(node):
        flow.pin(node, f"{describe(node)} pads with a constant that is not zero")
    move = _move(flow, node, operands, results)
    if move is None:
        _rows(flow, node)
        return
    shapes, sources = move.shapes, move.sources
    sizes = [math.prod(shape) for shape in shapes]
    merged = torch.cat(
        [flow.get(n).expand(s).reshape(-1) for n, s in zip(operands, shapes, strict=True)]
    )
    for index, result in results.items():
        source = sources[index].reshape(-1)
        real = source >= 0
        wanted = flow.get(result).expand(sources[index].shape).reshape(-1)[real]
        source = source[real]
        source, wanted = source[wanted != 0], wanted[wanted != 0]
        scattered = merged.clone()
        scattered[source] = wanted
        flow.classes.merge(scattered[source], wanted)
        flow.classes.merge(scattered, merged)
        merged = scattered
    for index, result in results.items():
        source = sources[index]
        labels = torch.where(source >= 0, merged[source.clamp(min=0)], 0)
        flow.assign(result, labels)
    for operand, shape, labels in zip(operands, shapes, merged.split(sizes), strict=True):
        flow.assign(operand, labels.reshape(shape))


@rule(operator.getitem)
def getitem(flow: Flow, node: Node) -> None:
    """Nothing to do: the call that makes the list has the equation."""


def _carries(node: Node) -> bool:
    """Whether ``node`` is a floating tensor, which may be scaled."""
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.dtype.is_floating_point


def _move(flow: Flow, node: Node, operands: list[Node], results: Mapping[int, Node]) -> Move | None:
    """What `_whole_move` gives, for one index of axes that no label depends on, if it is large."""
    known = flow.shapes.moves
    labels = [flow.get(n) for n in operands], {i: flow.get(n) for i, n in results.items()}
    if node in known and ((kept := known[node]) is None or kept.takes(*labels)):
        return kept
    move = _whole_move(flow, node, operands)
    if move is None or move.size <= MAX_KEPT:
        known[node] = move
        return move
    slim = move.slim(*labels)
    if slim.size <= MAX_KEPT:
        known[node] = slim
    return slim


def _whole_move(flow: Flow, node: Node, operands: list[Node]) -> Move | None:
    """What ``node`` does, on element numbers.

    None where the elements that move depend on tensors whose values the graph does not fix.
    """
    numbers: dict[Node, Tensor] = {}
    kind = torch.float64 if node.target in UNWHOLE else torch.int64
    start = 1  # operations fill in zeros
    shapes = tuple(flow.shapes.shape(operand) for operand in operands)
    for operand, shape in zip(operands, shapes, strict=True):
        count = math.prod(shape)
        numbers[operand] = torch.arange(start, start + count, dtype=kind).reshape(shape)
        start += count

    def value(given: Any) -> Any:
        known = isinstance(given, Node) and given in numbers
        return numbers[given] if known else flow.shapes.concrete(given)

    if any(isinstance(value(read), Node) for read in node.all_input_nodes):
        return None
    fill = {"value": 0} if _pads_with_numbers(node) else {}
    with flow.shapes.fitting(RuntimeError, IndexError):
        result = call(node, value, **fill)
    results = [result] if isinstance(result, Tensor) else list(result)
    return Move(shapes, tuple(made.long() - 1 for made in results))


def _pads_with_numbers(node: Node) -> bool:
    """Whether it pads with a number, not with copies."""
    if node.target is aten.pad.default:
        return bool(argument(node, "mode") == "constant")
    return node.target is aten.constant_pad_nd.default


def _pads_neutrally(node: Node) -> bool:
    """Whether it pads with copies, or with what no scale changes: zeros or infinities."""
    if not _pads_with_numbers(node):
        return True
    return argument(node, "value") in (None, 0, math.inf, -math.inf)


def _rows(flow: Flow, node: Node) -> None:
    """Rows picked by unknown numbers: labels must not depend on the axes picked from."""
    x = first_argument(node)
    if node.target is aten.index_select.default:
        axes, made, at = [argument(node, "dim") % len(x.meta["val"].shape)], 1, None
    elif node.target is aten.index.Tensor:
        axes, made, at = picked_axes(argument(node, "indices"))
    else:
        for value in (*node.all_input_nodes, *flow.outputs(node).values()):
            flow.pin(value, f"{describe(node)} moves elements by numbers known only when it runs")
        return
    at = axes[0] if at is None else at
    labels = merge_axes(flow.classes, flow.get(x), axes)
    flow.assign(x, labels)
    flow.assign(node, _exchange(labels, axes, at, made))
    back = merge_axes(flow.classes, flow.get(node), range(at, at + made))
    flow.assign(node, back)
    kept = back.reshape([size for i, size in enumerate(back.shape) if not at <= i < at + made])
    for axis in axes:
        kept = kept.unsqueeze(axis)
    flow.assign(x, kept)


def picked_axes(parts: Any) -> tuple[list[int], int, int]:
    """The axes that ``x[parts]`` picks from, how many axes it makes, and where they go."""
    axes: list[int] = []
    axis = made = 0
    for part in parts:
        if part is None:
            axis += 1
            continue
        value = part.meta["val"]
        mask = value.dtype in (torch.bool, torch.uint8)
        count = value.ndim if mask else 1
        axes += range(axis, axis + count)
        axis += count
        made = max(made, 1 if mask else value.ndim)
    together = axes == list(range(axes[0], axes[-1] + 1))
    return axes, made, axes[0] if together else 0


def _exchange(labels: Tensor, axes: list[int], at: int, made: int) -> Tensor:
    """``labels`` with ``axes``, of size 1, taken out and ``made`` of size 1 put in at ``at``."""
    kept = labels.reshape([size for i, size in enumerate(labels.shape) if i not in axes])
    return kept.reshape(*kept.shape[:at], *(1,) * made, *kept.shape[at:])


@rule(aten.gather.default)
def gather(flow: Flow, node: Node) -> None:
    """``y[i, j] = x[index[i, j], j]``: labels are constant along the axis picked from."""
    x, axis = argument(node, "self"), argument(node, "dim")
    axis %= max(len(node.meta["val"].shape), 1)
    if flow.shapes.shape(x)[:axis] + flow.shapes.shape(x)[axis + 1 :] != (
        flow.shapes.shape(node)[:axis] + flow.shapes.shape(node)[axis + 1 :]
    ):
        for value in (x, node):
            flow.pin(value, f"{describe(node)} gathers a part of the other axes")
        return
    for source, target in ((x, node), (node, x)):
        labels = merge_axes(flow.classes, flow.get(source), [axis])
        flow.assign(source, labels)
        flow.assign(target, labels)
