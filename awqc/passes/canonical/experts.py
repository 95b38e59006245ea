"""Write products with a stack of matrices as one ``linear`` a matrix."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from awqc.graph.families import CASTS
from awqc.graph.ops import argument, arguments, first_argument, has_argument, leading_arguments
from awqc.graph.row_masks import same_rows
from awqc.passes.base import Change
from awqc.program import Program

aten = torch.ops.aten
GROUPED = frozenset({"_grouped_mm", "grouped_mm", "grouped_mm_fallback"})


def unstack_products(program: Program) -> list[Change]:
    """Grouped and batched products with a constant ``(matrices, K, N)``, matrix by matrix.

    Each matrix becomes a weight that can be scaled and quantized by itself. In a grouped
    product every matrix is applied to every row, and rows of other groups are masked: right
    for any routing, at the cost of computing what a sparse kernel would skip.
    """
    changes = []
    groups: dict[Node, Node] = {}
    for node in list(program.graph.nodes):
        if node.op != "call_function":
            continue
        if node.target in (aten.bmm.default, aten.matmul.default):
            made = _batched(program, node)
        elif _op_name(node) in GROUPED:
            made = _grouped(program, node, groups)
        else:
            continue
        if made is not None:
            node.replace_all_uses_with(made)
            program.graph.erase_node(node)
            changes.append(Change(node.name, "written as one linear a matrix"))
    return changes


def _op_name(node: Node) -> str:
    schema = getattr(node.target, "_schema", None)
    return "" if schema is None else str(schema.name).split("::")[-1]


def is_stack(node: Any) -> bool:
    """Whether ``node`` reads a stack of matrices, a constant with three axes."""
    if not isinstance(node, Node) or node.op != "get_attr":
        return False
    value = node.meta["val"]
    return bool(value.is_floating_point() and value.ndim == 3)


def matrices(program: Program, weight: Node, *, alone: bool, transposed: bool) -> list[Node]:
    """Reads of the matrices of ``weight``, each as ``linear`` takes it.

    ``alone``: nothing else reads ``weight``. ``transposed``: its matrices are ``(K, N)``.
    """
    name = str(weight.target)
    base = name if alone else program.fresh_name(name)
    value, first = program.weight(name), next(iter(program.graph.nodes))
    copied = torch.contiguous_format
    return [
        program.add_weight(f"{base}.{index}", matrix.clone(memory_format=copied), first)
        for index, matrix in enumerate(value.mT if transposed else value)
    ]


def _own_matrices(program: Program, node: Node, weight: Node) -> list[Node]:
    return matrices(program, weight, alone=set(weight.users) == {node}, transposed=True)


def _batched(program: Program, node: Node) -> Node | None:
    """``stack_e(x_e W_e)``, where every matrix has rows of its own or all share them."""
    x, weight = leading_arguments(node, 2)
    if not is_stack(weight) or x.op == "get_attr":
        return None
    shape, count = x.meta["val"].shape, weight.meta["val"].shape[0]
    if len(shape) < 3 or shape[-3] not in (1, count):
        return None
    axis = len(shape) - 3
    rows = [
        program.call_op(node, aten.select.int, x, axis, index) for index in range(int(shape[-3]))
    ]
    parts = [
        program.call_op(node, aten.linear.default, rows[min(index, len(rows) - 1)], matrix)
        for index, matrix in enumerate(_own_matrices(program, node, weight))
    ]
    return program.call_op(node, aten.stack.default, parts, axis)


def _grouped(program: Program, node: Node, groups: dict[Node, Node]) -> Node | None:
    """``sum_e where(group(row) = e, x W_e, 0)``, with groups that end at ``ends``.

    ``groups`` holds the group of each row, by ``ends``: it is the same in all products.
    """
    x, weight, *others = arguments(node).values()
    ends = argument(node, "offs") if has_argument(node.target, "offs") else None
    plain = all(value is None or value is ends for value in others)
    if not (plain and is_stack(weight) and isinstance(ends, Node)):
        return None
    if x.meta["val"].ndim != 2:
        return None
    group = groups.get(ends)
    if group is None or not same_rows(group, x):
        group = groups[ends] = _group_of_rows(program, node, x, ends)
    stack = _own_matrices(program, node, weight)
    masks = [program.call_op(node, aten.eq.Scalar, group, e) for e in range(len(stack))]
    total: Node | None = None
    for mask, matrix in zip(masks, stack, strict=True):
        made = program.call_op(node, aten.linear.default, x, matrix)
        made = program.call_op(node, aten.where.ScalarOther, mask, made, 0.0)
        total = made if total is None else program.call_op(node, aten.add.Tensor, total, made)
    return total


def _group_of_rows(program: Program, node: Node, x: Node, ends: Node) -> Node:
    """The number of the group of each row of ``x``: ``(rows, 1)``.

    Rows are numbered without their count, which may be symbolic: row r is number r + 1.
    """
    dtype = ends.meta["val"].dtype
    first = program.call_op(node, aten.select.int, x, 1, 0)
    ones = program.call_op(node, aten.ones_like.default, first, dtype=dtype)
    rows = program.call_op(node, aten.cumsum.default, ones, 0, dtype=dtype)
    rows = program.call_op(node, aten.unsqueeze.default, rows, 1)
    passed = program.call_op(node, aten.gt.Tensor, rows, ends)
    return program.call_op(node, aten.sum.dim_IntList, passed, [1], True)


def count_by_comparing(program: Program) -> list[Change]:
    """``histc(x, bins, low, high)`` of whole numbers, one a bin, as sums of comparisons."""
    changes = []
    for node in list(program.graph.nodes):
        if node.op != "call_function" or node.target is not aten.histc.default:
            continue
        x, bins, low, high = arguments(node).values()
        if not (isinstance(bins, int) and high - low + 1 == bins and _holds_integers(x)):
            continue
        values = torch.arange(low, high + 1, dtype=x.meta["val"].dtype)
        first = next(iter(program.graph.nodes))
        read = program.add_weight(program.fresh_name(f"{node.name}.bins"), values, first)
        flat = program.call_op(node, aten.reshape.default, x, [-1, 1])
        equal = program.call_op(node, aten.eq.Tensor, flat, read)
        counts = program.call_op(node, aten.sum.dim_IntList, equal, [0])
        made = program.call_op(node, aten._to_copy.default, counts, dtype=node.meta["val"].dtype)
        node.replace_all_uses_with(made)
        program.graph.erase_node(node)
        changes.append(Change(node.name, "counted by comparing"))
    return changes


def _holds_integers(node: Node) -> bool:
    """Whether ``node`` is integer, or a cast of an integer tensor."""
    if not node.meta["val"].dtype.is_floating_point:
        return True
    if node.target not in CASTS:
        return False
    return not first_argument(node).meta["val"].dtype.is_floating_point
