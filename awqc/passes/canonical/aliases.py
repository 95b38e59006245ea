"""One name for operations that go by several, and one order of their arguments."""

from __future__ import annotations

from typing import Any

import torch
from torch._ops import OpOverload

from awqc.graph.ops import put_in_order
from awqc.passes.base import Change
from awqc.program import Program

aten = torch.ops.aten
ALIASES: dict[Any, Any] = {
    aten.multiply.Tensor: aten.mul.Tensor,
    aten.multiply.Scalar: aten.mul.Scalar,
    aten.divide.Tensor: aten.div.Tensor,
    aten.divide.Scalar: aten.div.Scalar,
    aten.true_divide.Tensor: aten.div.Tensor,
    aten.true_divide.Scalar: aten.div.Scalar,
    aten.subtract.Tensor: aten.sub.Tensor,
    aten.absolute.default: aten.abs.default,
    aten.negative.default: aten.neg.default,
    aten.concatenate.default: aten.cat.default,
    aten.swapdims.default: aten.transpose.int,
    aten.moveaxis.int: aten.movedim.int,
    aten.moveaxis.intlist: aten.movedim.intlist,
    aten.clip.default: aten.clamp.default,
    aten.subtract.Scalar: aten.sub.Scalar,
    aten.max.other: aten.maximum.default,
    aten.min.other: aten.minimum.default,
    aten.clip.Tensor: aten.clamp.Tensor,
    aten.greater_equal.Scalar: aten.ge.Scalar,
    aten.less_equal.Scalar: aten.le.Scalar,
    aten.not_equal.Scalar: aten.ne.Scalar,
    aten.greater.Tensor: aten.gt.Tensor,
    aten.greater_equal.Tensor: aten.ge.Tensor,
    aten.less.Tensor: aten.lt.Tensor,
    aten.less_equal.Tensor: aten.le.Tensor,
    aten.not_equal.Tensor: aten.ne.Tensor,
    aten.greater.Scalar: aten.gt.Scalar,
    aten.less.Scalar: aten.lt.Scalar,
}


def unify_names(program: Program) -> list[Change]:
    """``multiply -> mul``, ``divide -> div``, …: the same operation under its common name."""
    changes = []
    for node in program.graph.nodes:
        if node.op == "call_function" and node.target in ALIASES:
            node.target = ALIASES[node.target]
            changes.append(Change(node.name, "called by its common name"))
    return changes


def order_arguments(program: Program) -> list[Change]:
    """``sum(keepdim=True, self=x, dim=[1])  ->  sum(x, [1], True)``: one form for equal calls."""
    changes = []
    for node in program.graph.nodes:
        operation = node.op == "call_function" and isinstance(node.target, OpOverload)
        if operation and put_in_order(node):
            changes.append(Change(node.name, "its arguments put in order"))
    return changes
