"""Write operations that are made of others as these others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.fx import Node
from torch.nn import functional
from torch.utils import _pytree as pytree

from awqc.channels.flow import RULES
from awqc.channels.not_homogeneous import NOT_HOMOGENEOUS
from awqc.graph.rewriting import (
    TracingError,
    definition,
    expand,
    is_composite,
    is_functional,
    trace_call,
)
from awqc.machine.strict import fall_back
from awqc.passes.base import Change
from awqc.passes.canonical.cells import CELLS
from awqc.program import Program

aten = torch.ops.aten
DEFINITIONS: dict[Any, Callable[..., Any]] = {
    aten.addcmul.default: lambda x, a, b, value=1: x + _times(value, a * b),
    aten.addcdiv.default: lambda x, a, b, value=1: x + _times(value, a / b),
    aten.lerp.Scalar: lambda x, end, weight: x + weight * (end - x),
    aten.lerp.Tensor: lambda x, end, weight: x + weight * (end - x),
    aten.addmm.default: lambda x, a, b, beta=1, alpha=1: _sum(x, torch.mm(a, b), beta, alpha),
    aten.addmv.default: lambda x, a, b, beta=1, alpha=1: _sum(x, _mv(a, b), beta, alpha),
    aten.baddbmm.default: lambda x, a, b, beta=1, alpha=1: _sum(x, torch.bmm(a, b), beta, alpha),
    aten.addbmm.default: lambda x, a, b, beta=1, alpha=1: _sum(
        x, torch.bmm(a, b).sum(0), beta, alpha
    ),
    aten.mv.default: lambda a, b: _mv(a, b),
    aten.dot.default: lambda a, b: (a * b).sum(),
    aten.bilinear.default: lambda a, b, weight, bias=None: functional.linear(
        (a[..., :, None] * b[..., None, :]).flatten(-2), weight.flatten(1), bias
    ),
    **CELLS,
}
"""Operations that torch computes in one step, in terms of operations that have a rule."""


def _times(factor: float, value: Tensor) -> Tensor:
    return value if factor == 1 else factor * value


def _sum(x: Tensor, product: Tensor, beta: float, alpha: float) -> Tensor:
    scaled = _times(alpha, product)
    return scaled if beta == 0 else _times(beta, x) + scaled


def _mv(matrix: Tensor, vector: Tensor) -> Tensor:
    return torch.mm(matrix, vector[:, None])[:, 0]


def take_apart(program: Program) -> list[Change]:
    """``addcmul(x, a, b)  ->  x + a * b``, and so on.

    Composite operations without a channel rule become what torch defines them by, so that
    none stops a scale for want of a rule. Left alone: those that no scale can pass anyway,
    and complex ones.
    """
    changes = []
    for node in list(program.graph.nodes):
        target = node.target
        if node.op != "call_function" or not isinstance(target, OpOverload):
            continue
        if not _worth_it(node, target):
            continue
        own = DEFINITIONS.get(target)
        try:
            inner = trace_call(node, own or definition(target), composite=own is not None)
        except TracingError as error:
            fall_back(program.tell, f"{error}; it stays as it is, and may stop a scale", error)
            continue
        opened = not inner.graph.find_nodes(op="call_function", target=target)
        if opened and is_functional(inner):
            for made in expand(node, inner):
                if made.target is aten.view.default:
                    # A view asks for strides that its input need not have any more.
                    made.target = aten.reshape.default
            changes.append(Change(node.name, f"{target} written as the operations it is made of"))
    return changes


def _worth_it(node: Node, target: OpOverload) -> bool:
    """Whether ``target`` could pass a scale if it were taken apart."""
    if target in RULES or not (target in DEFINITIONS or is_composite(target)):
        return False
    if target.__name__.split(".")[0].rstrip("_") in NOT_HOMOGENEOUS:
        return False
    values = [n.meta.get("val") for n in node.all_input_nodes] + [node.meta.get("val")]
    tensors = [v for v in pytree.tree_leaves(values) if isinstance(v, Tensor)]
    real = not any(tensor.dtype.is_complex for tensor in tensors)
    return real and any(tensor.dtype.is_floating_point for tensor in tensors)
