"""Elementwise operations: homogeneous ones, sums, products, selections."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from awqc.channels.flow import Alternative, Flow, alternatives, describe, rule
from awqc.graph.families import CASTS, COPIES, DIVIDED, DROPOUTS, FILLS, MULTIPLIED, ZEROS
from awqc.graph.ops import argument, first_argument, given_arguments, has_argument

aten = torch.ops.aten


def is_tensor(argument: Any) -> bool:
    """Whether an argument of a call is a tensor that the graph makes or holds."""
    return isinstance(argument, Node) and isinstance(argument.meta.get("val"), Tensor)


def same(flow: Flow, *nodes: Any) -> None:
    """All ``nodes`` carry the same labels, merged where one is broadcast."""
    values = [node for node in nodes if is_tensor(node)]
    for value in values:
        if flow.scaled(value):
            for other in values:
                flow.assign(other, flow.get(value))


# f(x / s) = f(x) / s  for s > 0: positively homogeneous of degree one, and copies.
@rule(
    aten.relu.default,
    aten.leaky_relu.default,
    aten.abs.default,
    aten.neg.default,
    aten.native_dropout.default,
    aten.rrelu.default,
    aten.contiguous.default,
    *COPIES,
    *DROPOUTS,
    aten.positive.default,
    aten.tril.default,
    aten.triu.default,
    aten.copysign.Tensor,
    aten.copysign.Scalar,
    aten.nan_to_num.default,
)
def homogeneous(flow: Flow, node: Node) -> None:
    """``f(x / s) = f(x) / s``; of a second operand only the sign matters."""
    same(flow, first_argument(node), flow.outputs(node).get(0))


# cast(x / s) = cast(x) / s, as long as it casts to a floating type.
@rule(*CASTS, torch.ops.prims.convert_element_type.default)
def cast(flow: Flow, node: Node) -> None:
    """``cast(x / s) = cast(x) / s`` to a floating type; others are refused."""
    x = first_argument(node)
    if node.meta["val"].dtype.is_floating_point:
        same(flow, x, node)
    else:
        flow.pin(x, f"{describe(node)} casts it to {node.meta['val'].dtype}")


@rule(aten.prelu.default)
def prelu(flow: Flow, node: Node) -> None:
    """``prelu(x / s, w) = prelu(x, w) / s``: the slope is left alone."""
    same(flow, argument(node, "self"), node)
    slope = argument(node, "weight")
    flow.pin(slope, f"{describe(node)}: the slope of a prelu cannot take a scale")


@rule(aten.clamp.Tensor, aten.clamp_min.Tensor, aten.clamp_max.Tensor)
def clamp_between(flow: Flow, node: Node) -> None:
    """``max(x / s, a / s) = max(x, a) / s``: bounds that are tensors are scaled alike."""
    same(flow, *given_arguments(node).values(), node)


@rule(aten.clamp.default, aten.clamp_min.default, aten.clamp_max.default, aten.threshold.default)
def clamp(flow: Flow, node: Node) -> None:
    """``max(x / s, 0) = max(x, 0) / s``: bounds of 0 and infinity pass, others are refused."""
    x, *bounds = given_arguments(node).values()
    if all(b is None or (isinstance(b, int | float) and _scale_free(b)) for b in bounds):
        same(flow, x, node)
    else:
        for value in (x, node):
            flow.pin(value, f"{describe(node)} clamps at {bounds}, which a scale would move")


def _scale_free(value: float) -> bool:
    """Whether ``value / s = value`` for every positive s."""
    return value == 0 or math.isinf(value)


# (a + b) / s = a / s + b / s
@rule(
    aten.add.Tensor,
    aten.sub.Tensor,
    aten.add_.Tensor,
    aten.rsub.Tensor,
    aten.add.Scalar,
    aten.sub.Scalar,
    aten.rsub.Scalar,
)
def add(flow: Flow, node: Node) -> None:
    """Both operands absorb; a constant that is not zero cannot."""
    operands = argument(node, "self"), argument(node, "other")
    for operand in operands:
        if not is_tensor(operand) and operand != 0:
            for value in (*node.all_input_nodes, node):
                flow.pin(value, f"{describe(node)} adds the constant {operand}")
    same(flow, *operands, node)


# zeros_like(x / s) = zeros_like(x): only the shape of x matters
@rule(
    *ZEROS,
    *FILLS,
    aten.ones_like.default,
    aten.new_ones.default,
    aten.empty_like.default,
    aten.new_empty.default,
    aten.rand_like.default,
    aten.randn_like.default,
    aten.sym_size.int,
    aten.sym_numel.default,
    aten.sym_stride.int,
)
def shape_only(flow: Flow, node: Node) -> None:
    """The operand is free; the result is a constant, see `awqc.channels.scale_free` for zeros."""
    flow.pin(node, f"{describe(node)} is a constant")


# x / s > 0  is  x > 0
@rule(
    aten.gt.Scalar,
    aten.ge.Scalar,
    aten.lt.Scalar,
    aten.le.Scalar,
    aten.eq.Scalar,
    aten.ne.Scalar,
    aten.sign.default,
    aten.isnan.default,
    aten.isinf.default,
)
def sign(flow: Flow, node: Node) -> None:
    """Only the sign of the operand matters; a comparison with another number is refused."""
    bound = argument(node, "other") if has_argument(node.target, "other") else 0
    if not (isinstance(bound, int | float) and _scale_free(bound)):
        flow.pin(argument(node, "self"), f"{describe(node)} compares it with {bound}")
    flow.pin(node, f"{describe(node)} is a sign")


# min(a / s, b / s) = min(a, b) / s
@rule(
    aten.maximum.default,
    aten.minimum.default,
    aten.fmax.default,
    aten.fmin.default,
    aten.hypot.default,
)
def extreme(flow: Flow, node: Node) -> None:
    """``max(a / s, b / s) = max(a, b) / s``; ``sqrt(a^2 + b^2)`` alike."""
    same(flow, argument(node, "self"), argument(node, "other"), node)


# where(c, a / s, b / s) = where(c, a, b) / s
@rule(aten.where.self, aten.where.ScalarOther, aten.where.ScalarSelf)
def where(flow: Flow, node: Node) -> None:
    """Both branches absorb; a scalar branch must be 0 or infinite."""
    _select(flow, node, argument(node, "self"), argument(node, "other"))


@rule(aten.masked_fill.Scalar, aten.masked_fill.Tensor)
def masked_fill(flow: Flow, node: Node) -> None:
    """As `where`: the filled value must be 0 or infinite, or absorb."""
    _select(flow, node, argument(node, "self"), argument(node, "value"))


# y = x;  y[i] = 0
@rule(aten.scatter.value, aten.index_fill.int_Scalar, aten.index_fill.int_Tensor)
def overwrite(flow: Flow, node: Node) -> None:
    """As `where`, on elements known only when it runs."""
    _select(flow, node, argument(node, "self"), argument(node, "value"))


def _select(flow: Flow, node: Node, *branches: Any) -> None:
    for branch in branches:
        if isinstance(branch, int | float) and not _scale_free(branch):
            for value in (*node.all_input_nodes, node):
                flow.pin(value, f"{describe(node)} selects the constant {branch}")
    same(flow, *branches, node)


# glu(x) = x[:half] * sigmoid(x[half:])
@rule(aten.glu.default)
def glu(flow: Flow, node: Node) -> None:
    """The first half along the axis passes; the second, under a sigmoid, cannot be scaled."""
    x = argument(node, "self")
    shape = flow.shapes.shape(x)
    axis = argument(node, "dim") % len(shape)
    if flow.scaled(x):
        first, second = flow.get(x).expand(shape).chunk(2, axis)
        flow.pin(x, f"{describe(node)} takes a sigmoid of it", second)
        flow.assign(node, flow.classes.active(first))
    if flow.scaled(node):
        labels = flow.get(node)
        labels = labels.expand([shape[axis] // 2 if i == axis else -1 for i in range(labels.ndim)])
        flow.assign(x, torch.cat([labels, torch.zeros_like(labels)], axis))


# (a / s) * b = (a * b) / s
@rule(*MULTIPLIED, *DIVIDED)
def multiply(flow: Flow, node: Node) -> None:
    """One operand carries the scale; two scaled ones must cancel."""
    first, second = _factors(node)
    if not (is_tensor(first) and is_tensor(second)):
        if not is_tensor(first) and _exponent(node) < 0:
            flow.pin(second, f"{describe(node)} divides by it")
            flow.pin(node, f"{describe(node)} divides a constant")
        else:
            same(flow, first, second, node)
        return
    if first is second and _exponent(node) > 0:
        _square(flow, node)
        return
    if first is second:
        for value in (first, node):
            flow.pin(value, f"{describe(node)} divides the value by itself")
        return
    a, b, out = _balance(flow, node)
    clash = (a != 0) & (b != 0) & ((a != -b) | (out != 0))
    if bool(clash.any()):
        for value in (first, second, node):
            flow.pin(value, f"{describe(node)} multiplies two scaled values")
        return
    if bool(((a == 0) & (b == 0) & (out != 0)).any()):
        flow.choose(node)
    for operand, other, labels in ((first, second, a), (second, first, b)):
        alone = labels * ((a == 0) | (b == 0))
        if absorbs(flow, other) and bool(((alone != 0) & (out == 0)).any()):
            flow.choose(node)
            alone = torch.where(out == 0, 0, alone)
        assert isinstance(operand, Node)
        flow.assign(node, alone)


def _factors(node: Node) -> tuple[Any, Any]:
    return argument(node, "self"), argument(node, "other")


def _balance(flow: Flow, node: Node) -> tuple[Tensor, Tensor, Tensor]:
    """Labels of both factors and of the product, of one shape; a divisor's are negated."""
    first, second = _factors(node)
    a, b, out = torch.broadcast_tensors(
        flow.get(first), _exponent(node) * flow.get(second), flow.get(node)
    )
    return a, b, out


def absorbs(flow: Flow, value: Any) -> bool:
    """Whether ``value`` is a tensor of the program that a scale may change."""
    return (
        isinstance(value, Node)
        and value.op == "get_attr"
        and value not in flow.neutral
        and bool(value.meta["val"].dtype.is_floating_point)
    )


# (x / sqrt(s))^2 = x^2 / s
@rule(aten.square.default, aten.pow.Tensor_Scalar)
def power(flow: Flow, node: Node) -> None:
    """The square root of a scale may go into a square; other powers are refused."""
    exponent = argument(node, "exponent") if has_argument(node.target, "exponent") else 2
    if exponent == 2:
        _square(flow, node)
        return
    for value in (argument(node, "self"), node):
        flow.pin(value, f"{describe(node)}: a scale cannot pass through pow with {exponent}")


def _square(flow: Flow, node: Node) -> None:
    x = argument(node, "self")
    if flow.scaled(x):
        whole = torch.where(flow.classes.are_roots(flow.get(x)), 0, flow.get(x))
        flow.pin(x, f"{describe(node)} squares it", whole)
        flow.assign(node, flow.classes.shift(flow.get(x), -1))
    if flow.scaled(node):
        roots = torch.where(flow.classes.are_roots(flow.get(node)), flow.get(node), 0)
        flow.pin(node, f"{describe(node)} is a square inside a square", roots)
        flow.assign(x, flow.classes.shift(flow.get(node), 1))


@alternatives(aten.mul.Tensor, aten.div.Tensor)
def multiply_alternatives(flow: Flow, node: Node) -> list[Alternative]:
    """The scale of a product may sit on either factor; tensors of the program come first.

    The scale of one factor may be undone by the other, if that is a tensor of the program,
    or reach the product.
    """
    first, second = _factors(node)
    a, b, out = _balance(flow, node)
    missing = torch.where((a == 0) & (b == 0), out, 0)
    if bool((missing != 0).any()):
        options = [Alternative(first, missing), Alternative(second, _exponent(node) * missing)]
        options = [
            option
            for option in options
            if option.node not in flow.neutral and option.node.meta["val"].dtype.is_floating_point
        ]
        return sorted(options, key=lambda option: _reluctance(flow, option, missing))
    undone = torch.where((b == 0) & (out == 0), a, 0)
    if bool((undone != 0).any()) and absorbs(flow, second):
        return [Alternative(second, -_exponent(node) * undone), Alternative(node, undone)]
    undone = torch.where((a == 0) & (out == 0), b, 0)
    if bool((undone != 0).any()) and absorbs(flow, first):
        return [Alternative(first, -undone), Alternative(node, undone)]
    return []


def _exponent(node: Node) -> int:
    """+1 where the second operand multiplies, -1 where it divides."""
    return -1 if node.target in DIVIDED else 1


def _reluctance(flow: Flow, option: Alternative, labels: Tensor) -> tuple[bool, bool]:
    """Sort key: program tensors first, and operands that need not be merged to fit."""
    shape = flow.shapes.shape(option.node)
    padded = (1,) * (labels.ndim - len(shape)) + shape
    axes = [i for i in range(labels.ndim) if bool((labels != labels.narrow(i, 0, 1)).any())]
    return any(padded[i] == 1 for i in axes), option.node.op != "get_attr"
