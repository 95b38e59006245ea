"""Write products with matrices that an index picks out of a stack as one ``linear`` a matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch.fx import Node

from awqc.graph.families import TRANSPOSES
from awqc.graph.ops import argument, leading_arguments
from awqc.passes.base import Change
from awqc.passes.canonical.einsum import two_terms
from awqc.passes.canonical.experts import is_stack, matrices
from awqc.program import Program

aten = torch.ops.aten
LARGEST = 256
"""Matrices of a stack that is taken apart; each is applied to every row."""

Term = list[str | None]
"""A letter for each axis, as in an einsum; None for one of size 1 that is broadcast."""


def unstack_picked(program: Program) -> list[Change]:
    """``x W[ids]  ->  sum_e where(ids = e, linear(x, W_e), 0)``.

    For ``W`` a constant ``(matrices, rows, columns)`` and whole numbers ``ids`` of any shape, in
    ``matmul``, ``bmm`` and ``einsum`` of two. Each matrix becomes a weight that can be scaled and
    quantized by itself, at the cost of computing what is not picked.
    """
    writer = _Writer(program)
    changes = []
    for node in list(program.graph.nodes):
        product = _Product.of(node)
        if product is None:
            continue
        writer.write(product)
        changes.append(Change(node.name, "written as one linear a matrix"))
    return changes


def entry(group: Node, node: Node) -> Node | None:
    """The tensor whose entry ``e`` is ``node`` where ``group`` is ``e``; None if it is no such.

    For ``node = table[ids]``, and ``group`` made of the same ``ids`` by `unstack_picked`.
    """
    if node.target is not aten.index.Tensor or (ids := _only_index(node)) is None:
        return None
    while group.target is aten.unsqueeze.default:
        group = argument(group, "self")
    if group.target is not aten.remainder.Scalar or argument(group, "self") is not ids:
        return None
    table: Node = argument(node, "self")
    rows = table.meta["val"].shape[0]
    return table if table.op == "get_attr" and argument(group, "other") == rows else None


def _only_index(node: Node) -> Node | None:
    """The whole numbers that index the first axis, and no other."""
    indices = argument(node, "indices")
    found = indices[0] if len(indices) == 1 else None
    if not isinstance(found, Node):
        return None
    return found if found.meta["val"].dtype in (torch.int64, torch.int32) else None


@dataclass(frozen=True)
class _Picked:
    """``weight[ids]`` with its axes in ``order``."""

    weight: Node
    ids: Node
    order: tuple[int, ...]

    @classmethod
    def of(cls, node: Any) -> _Picked | None:
        if not isinstance(node, Node) or node.op != "call_function":
            return None
        if node.target in TRANSPOSES:
            inner = cls.of(argument(node, "self"))
            if inner is None:
                return None
            order = list(inner.order)
            if node.target is aten.permute.default:
                order = [order[axis] for axis in argument(node, "dims")]
            else:
                swapped = node.target is aten.transpose.int
                i, j = leading_arguments(node, 3)[1:] if swapped else (-2, -1)
                order[i], order[j] = order[j], order[i]
            return cls(inner.weight, inner.ids, tuple(order))
        if node.target is aten.index.Tensor:
            ids = _only_index(node)
        elif node.target is aten.index_select.default and argument(node, "dim") == 0:
            ids = argument(node, "index")
        else:
            return None
        weight = argument(node, "self")
        if ids is None or not is_stack(weight) or weight.meta["val"].shape[0] > LARGEST:
            return None
        return cls(weight, ids, tuple(range(ids.meta["val"].ndim + 2)))


@dataclass(frozen=True)
class _Product:
    """An activation times picked matrices.

    Attributes:
        node: the product.
        x: the activation, with a letter for each axis in ``term``.
        picked: the matrices.
        batch: letters of the axes of ``ids``.
        summed: the letter of the matrices' axis that is summed.
        made: the letter of the other.
        transposed: whether the summed axis is the first of each matrix.
        out: letters of the result.
    """

    node: Node
    x: Node
    term: Term
    picked: _Picked
    batch: list[str]
    summed: str
    made: str
    transposed: bool
    out: list[str]

    @classmethod
    def of(cls, node: Node) -> _Product | None:
        found = _terms(node)
        if found is None:
            return None
        operands, terms, out = found
        for at in (0, 1):
            picked = _Picked.of(operands[at])
            if picked is None or None in terms[at]:
                continue
            letters = [str(terms[at][picked.order.index(axis)]) for axis in range(len(terms[at]))]
            *batch, row, column = letters
            x, term = operands[1 - at], terms[1 - at]
            summed, made = (column, row) if column in term else (row, column)
            others = {c for c in term if c is not None} - {summed, *batch}
            simple = (
                summed in term
                and summed not in out
                and made in out
                and made not in term
                and others <= set(out)
                and set(out) <= {*batch, *others, made}
            )
            if simple:
                transposed = summed == row
                return cls(node, x, term, picked, batch, summed, made, transposed, out)
        return None


def _terms(node: Node) -> tuple[tuple[Node, Node], tuple[Term, Term], list[str]] | None:
    """Both operands of a product of two, letters for their axes, and for the result's."""
    if node.op != "call_function":
        return None
    if node.target is aten.einsum.default:
        parsed = two_terms(node)
        if parsed is None:
            return None
        operands, (first, second), out = parsed
        return operands, (list(first), list(second)), list(out)
    if node.target not in (aten.bmm.default, aten.matmul.default):
        return None
    a, b = leading_arguments(node, 2)
    shapes = [tuple(operand.meta["val"].shape) for operand in (a, b)]
    if min(map(len, shapes)) < 2:
        return None
    batch = [f"batch {axis}" for axis in range(max(map(len, shapes)) - 2)]
    sizes = dict(zip(reversed(batch), _batch_sizes(*shapes), strict=True))
    terms = tuple(
        [
            None if shape[axis] == 1 and any(size != 1 for size in sizes[letter]) else letter
            for axis, letter in enumerate(batch[len(batch) - len(shape) + 2 :])
        ]
        for shape in shapes
    )
    return (a, b), ([*terms[0], "m", "k"], [*terms[1], "k", "n"]), [*batch, "m", "n"]


def _batch_sizes(*shapes: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    """The sizes along each batch axis of a product's operands, the last axis first."""
    batches = [tuple(reversed(shape[:-2])) for shape in shapes]
    longest = max(map(len, batches))
    return [tuple(batch[i] for batch in batches if i < len(batch)) for i in range(longest)]


class _Writer:
    """Writes products; what they share is made once."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._groups: dict[tuple[Node, int, int], Node] = {}
        self._matrices: dict[tuple[Node, bool], list[Node]] = {}

    def write(self, product: _Product) -> None:
        """Put linears in the place of ``product``."""
        node, ids = product.node, product.picked.ids
        x, rows, dropped = self._rows(product)
        group = self._group(product, len(rows))
        count = int(product.picked.weight.meta["val"].shape[0])
        present = [axis for axis, letter in enumerate(product.batch) if letter in product.term]
        sizes = [-1] * (len(product.batch) + len(rows) + 1)
        repeated = [axis for axis in range(len(product.batch)) if axis not in present]
        for axis in repeated:
            sizes[axis] = ids.meta["val"].shape[axis]
        total: Node | None = None
        for index, matrix in zip(range(count), self._stack(product), strict=True):
            mask = self._call(node, aten.eq.Scalar, group, index)
            made = self._call(node, aten.linear.default, x, matrix)
            if repeated:
                some = mask
                for axis in repeated:
                    some = self._call(node, aten.any.dim, some, axis, True)
                made = self._call(node, aten.where.ScalarOther, some, made, 0.0)
                made = self._call(node, aten.expand.default, made, sizes)
            made = self._call(node, aten.where.ScalarOther, mask, made, 0.0)
            total = made if total is None else self._call(node, aten.add.Tensor, total, made)
        assert total is not None
        letters = [*product.batch, *rows, product.made]
        for axis in reversed(range(len(product.batch))):
            if letters[axis] not in product.out:
                total = self._call(node, aten.sum.dim_IntList, total, [axis])
                del letters[axis]
        self._replace(product, total, letters, dropped)

    def _rows(self, product: _Product) -> tuple[Node, list[str], list[str]]:
        """The activation as ``(batch, rows, summed)``, letters of rows, and of rows left out."""
        node, value, letters = product.node, product.x, list(product.term)
        shape = value.meta["val"].shape
        kept = {*product.batch, product.summed}
        dropped = [
            c
            for c, size in zip(letters, shape, strict=True)
            if c is not None and c not in kept and isinstance(size, int) and size == 1
        ]
        for axis in reversed(range(len(letters))):
            if letters[axis] is None or letters[axis] in dropped:
                value = self._squeezed(node, value, axis)
                del letters[axis]
        rows = [c for c in letters if c is not None and c not in kept]
        wanted = [c for c in product.batch if c in letters] + [*rows, product.summed]
        if wanted != letters:
            order = [letters.index(c) for c in wanted]
            value = self._call(node, aten.permute.default, value, order)
        for axis, letter in enumerate(product.batch):
            if letter not in letters:
                value = self._call(node, aten.unsqueeze.default, value, axis)
        return value, rows, dropped

    def _squeezed(self, node: Node, value: Node, axis: int) -> Node:
        """``value`` without an axis of size 1: what it was before, if it was just given that."""
        ndim = value.meta["val"].ndim
        axes = (axis, axis - ndim)
        if value.target is aten.unsqueeze.default and argument(value, "dim") in axes:
            return cast(Node, argument(value, "self"))
        return self._call(node, aten.squeeze.dim, value, axis)

    def _group(self, product: _Product, rows: int) -> Node:
        """The number of the matrix that is picked, with an axis for rows and columns each."""
        ids, count = product.picked.ids, int(product.picked.weight.meta["val"].shape[0])
        key = ids, count, rows
        if key not in self._groups:
            after = ids.next
            group = self._call(after, aten.remainder.Scalar, ids, count)
            for _ in range(rows + 1):
                group = self._call(after, aten.unsqueeze.default, group, -1)
            self._groups[key] = group
        return self._groups[key]

    def _stack(self, product: _Product) -> list[Node]:
        key = product.picked.weight, product.transposed
        if key not in self._matrices:
            users = self._readers(product)
            self._matrices[key] = matrices(
                self._program, product.picked.weight, alone=users == 1, transposed=key[1]
            )
        return self._matrices[key]

    def _readers(self, product: _Product) -> int:
        """How many products read the stack, at least."""
        pending, count = [product.picked.weight], 0
        while pending:
            users = list(pending.pop().users)
            pending += [user for user in users if _Picked.of(user) is not None]
            count += sum(_Picked.of(user) is None for user in users)
        return count

    def _replace(
        self, product: _Product, made: Node, letters: list[str], dropped: list[str]
    ) -> None:
        """Bring ``made`` in the product's order of axes, and put it in its place."""
        node = product.node
        wanted = [c for c in product.out if c not in dropped]
        if wanted != letters:
            order = [letters.index(c) for c in wanted]
            made = self._call(node, aten.permute.default, made, order)
        axes = [axis for axis, letter in enumerate(product.out) if letter in dropped]
        if len(axes) == 1:
            ndim = len(product.out)
            for user in list(node.users):
                same = (axes[0], axes[0] - ndim)
                if user.target is aten.squeeze.dim and argument(user, "dim") in same:
                    user.replace_all_uses_with(made)
        for axis in axes:
            made = self._call(node, aten.unsqueeze.default, made, axis)
        node.replace_all_uses_with(made)
        self._program.graph.eliminate_dead_code()

    def _call(self, before: Node, target: Any, *args: Any) -> Node:
        return self._program.call_op(before, target, *args)
