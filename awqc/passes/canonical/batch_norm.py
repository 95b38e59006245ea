"""Fold a batch norm into the convolution, or linear, before it, or write it as what it is."""

from __future__ import annotations

import operator

import torch
from torch import Tensor
from torch.fx import Node

from awqc.graph.linears import as_linear
from awqc.graph.ops import argument, index_of, leading_arguments, set_argument
from awqc.passes.base import Change
from awqc.program import Program

aten = torch.ops.aten


def fold_batch_norms(program: Program) -> list[Change]:
    """``(W x + b - mean) / std * g + c  =  (W g / std) x + (b - mean) g / std + c``.

    Only where the norm alone reads the convolution, and the convolution alone its weight;
    others become ``x * factor + shift``, which a scale passes as it passes any product.
    """
    changes = []
    for node in list(program.graph.nodes):
        norm = _as_norm(program, node)
        if norm is None:
            continue
        factor, shift, result = norm
        source = argument(node, "input")
        if _folds(source):
            _fold(program, source, factor, shift)
            result.replace_all_uses_with(source)
            changes.append(Change(node.name, f"folded into {source.name}"))
        else:
            result.replace_all_uses_with(_write_out(program, node, factor, shift))
            changes.append(Change(node.name, "written as a product and a sum"))
    return changes


def _folds(source: Node) -> bool:
    """Whether a factor and a shift can go into the tensors of ``source`` alone."""
    linear = as_linear(source)
    if linear is None or len(source.users) != 1 or len(linear.weight.users) != 1:
        return False
    if not linear.kernel and len(source.meta["val"].shape) != 2:
        return False
    bias = argument(source, "bias")
    return bias is None or (bias.op == "get_attr" and len(bias.users) == 1)


def _write_out(program: Program, node: Node, factor: Tensor, shift: Tensor) -> Node:
    """``x * factor + shift``, along axis 1 of ``x``."""
    x = argument(node, "input")
    shape = [1] * max(x.meta["val"].ndim - 2, 0)
    name = str(argument(node, "running_mean").target).rpartition(".")[0] or node.name
    first = next(iter(program.graph.nodes))
    reads = [
        program.add_weight(program.fresh_name(f"{name}.{part}"), value.reshape(-1, *shape), first)
        for part, value in (("factor", factor), ("shift", shift))
    ]
    scaled = program.call_op(node, aten.mul.Tensor, x, reads[0])
    return program.call_op(node, aten.add.Tensor, scaled, reads[1])


def _as_norm(program: Program, node: Node) -> tuple[Tensor, Tensor, Node] | None:
    """``(factor, shift, result)`` of a batch norm in inference, each ``(channels,)``."""
    if node.target is aten.batch_norm.default:
        training, result = argument(node, "training"), node
    elif node.target is aten._native_batch_norm_legit_no_training.default:
        users = [u for u in node.users if u.target is operator.getitem]
        if len(users) != 1 or index_of(users[0]) != 0:
            return None
        training, result = False, users[0]
    else:
        return None
    eps = argument(node, "eps")
    tensors = leading_arguments(node, 5)[1:]
    if training or any(t is not None and t.op != "get_attr" for t in tensors):
        return None
    weight, bias, mean, var = (None if t is None else program.weight(t.target) for t in tensors)
    if mean is None or var is None:
        return None
    factor = torch.rsqrt(var + eps)
    factor = factor if weight is None else factor * weight
    shift = (0.0 if bias is None else bias) - mean * factor
    return factor, shift, result


def _fold(program: Program, call: Node, factor: Tensor, shift: Tensor) -> None:
    _, weight, bias = leading_arguments(call, 3)
    value = program.weight(str(weight.target))
    program.set_weight(str(weight.target), value * factor.reshape(-1, *[1] * (value.ndim - 1)))
    if bias is not None:
        old = program.weight(str(bias.target))
        program.set_weight(str(bias.target), old * factor + shift)
        return
    name = str(weight.target).removesuffix("weight") + "bias"
    set_argument(call, "bias", program.add_weight(program.fresh_name(name), shift, call))
