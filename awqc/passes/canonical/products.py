"""Write each product of an activation with a tensor of the program as ``linear``."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.fx import Node

from awqc.graph.families import MATMULS
from awqc.graph.ops import argument, arguments, leading_arguments
from awqc.passes.base import Change
from awqc.program import Program

aten = torch.ops.aten


def products_to_linear(program: Program) -> list[Change]:
    """``addmm``, ``mm``, ``matmul`` and ``einsum`` with a constant matrix become ``linear``."""
    changes = []
    for node in list(program.graph.nodes):
        if node.op != "call_function":
            continue
        if node.target is aten.addmm.default:
            made = _addmm(program, node)
        elif node.target in MATMULS:
            made = _matmul(program, node)
        elif node.target is aten.einsum.default:
            made = _einsum(program, node)
        else:
            continue
        if made is not None:
            node.replace_all_uses_with(made)
            program.graph.erase_node(node)
            changes.append(Change(node.name, f"{node.target} written as linear"))
    return changes


def _is_weight(node: object, rank: int | None = 2) -> bool:
    if not isinstance(node, Node) or node.op != "get_attr":
        return False
    value = node.meta["val"]
    return value.is_floating_point() and (rank is None or value.ndim == rank)


def _with_matrix(program: Program, node: Node, weight: Node, matrix: Tensor) -> Node:
    """A read of ``matrix``, which replaces ``weight`` in ``node``."""
    name = str(weight.target)
    name = name if set(weight.users) == {node} else program.fresh_name(name)
    return program.add_weight(name, matrix.contiguous(), next(iter(program.graph.nodes)))


def _addmm(program: Program, node: Node) -> Node | None:
    """``beta b + alpha x W  ->  linear(x, alpha W^T, beta b)``."""
    bias, x, weight, beta, alpha = arguments(node).values()
    if not _is_weight(weight) or _is_weight(x) or not _is_weight(bias, 1):
        return None
    if alpha != 1 or beta != 1:
        return None
    if bias.meta["val"].shape[0] != weight.meta["val"].shape[1]:
        return None
    matrix = _with_matrix(program, node, weight, program.weight(str(weight.target)).t())
    return program.call_op(node, aten.linear.default, x, matrix, bias)


def _matmul(program: Program, node: Node) -> Node | None:
    """``x W  ->  linear(x, W^T)``."""
    x, weight = leading_arguments(node, 2)
    if not _is_weight(weight) or _is_weight(x, None):
        return None
    matrix = _with_matrix(program, node, weight, program.weight(str(weight.target)).t())
    return program.call_op(node, aten.linear.default, x, matrix)


def _einsum(program: Program, node: Node) -> Node | None:
    """A product without batch letters in the weight: permute, flatten, linear, unflatten."""
    equation, operands = str(argument(node, "equation")).replace(" ", ""), argument(node, "tensors")
    if "->" not in equation or "." in equation:
        return None
    if len(operands) != 2 or _is_weight(operands[0], None) == _is_weight(operands[1], None):
        return None
    inputs, result = equation.split("->")
    terms = inputs.split(",")
    at = 1 if _is_weight(operands[1], None) else 0
    weight, x = operands[at], operands[1 - at]
    w_term, x_term = terms[at], terms[1 - at]
    summed = [c for c in x_term if c in w_term and c not in result]
    made = [c for c in w_term if c not in summed]
    kept = [c for c in x_term if c not in summed]
    simple = (
        bool(summed)
        and bool(made)  # a vector is no matrix
        and set(made).isdisjoint(kept)
        and sorted(result) == sorted(kept + made)
        and len(set(w_term)) == len(w_term)
        and len(set(x_term)) == len(x_term)
    )
    if not simple:
        return None
    sizes = dict(zip(w_term, weight.meta["val"].shape, strict=True))
    matrix = program.weight(str(weight.target)).permute([w_term.index(c) for c in made + summed])
    rows = [int(sizes[c]) for c in made]
    matrix = matrix.reshape(int(torch.Size(rows).numel()), -1)
    read = _with_matrix(program, node, weight, matrix)
    moved = x
    if kept + summed != list(x_term):
        moved = program.call_op(
            node, aten.permute.default, x, [x_term.index(c) for c in kept + summed]
        )
    if len(summed) > 1:
        moved = program.call_op(node, aten.flatten.using_ints, moved, len(kept), -1)
    out = program.call_op(node, aten.linear.default, moved, read)
    if len(rows) != 1:
        out = program.call_op(node, aten.unflatten.int, out, len(kept), rows)
    order = kept + made
    if order != list(result):
        out = program.call_op(node, aten.permute.default, out, [order.index(c) for c in result])
    return out
