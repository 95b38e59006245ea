"""Write an einsum of two activations as a matrix product, or as a product."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import Node

from awqc.graph.ops import argument
from awqc.passes.base import Change
from awqc.program import Program

aten = torch.ops.aten


def einsum_to_matmul(program: Program) -> list[Change]:
    """``einsum("bihd,bjhd->bhij", q, k)  ->  matmul(permute(q), permute(k))``.

    Letters in both operands and the result are batches, letters in both alone are summed.
    Left alone: more operands, diagonals, letters that are summed in one operand.
    """
    changes = []
    for node in list(program.graph.nodes):
        if node.op != "call_function" or node.target is not aten.einsum.default:
            continue
        equation = _Equation.parse(node)
        if equation is None:
            continue
        made = equation.multiply(program) if not equation.summed else equation.matmul(program)
        if made is not None:
            node.replace_all_uses_with(made)
            program.graph.erase_node(node)
            changes.append(Change(node.name, "einsum written as a product"))
    return changes


def two_terms(node: Node) -> tuple[tuple[Node, Node], tuple[str, str], str] | None:
    """Operands and letters of an einsum of two and of its result; None if one has a diagonal."""
    text = str(argument(node, "equation")).replace(" ", "")
    if "->" not in text or "." in text:
        return None
    inside, out = text.split("->")
    terms = inside.split(",")
    if len(terms) != 2 or any(len(set(t)) != len(t) for t in (*terms, out)):
        return None
    a, b = argument(node, "tensors")
    return (a, b), (terms[0], terms[1]), out


class _Equation:
    """Two operands and what their letters are."""

    def __init__(self, node: Node, terms: tuple[str, str], operands: tuple[Node, Node], out: str):
        self.node, self.terms, self.operands, self.out = node, terms, operands, out
        a, b = terms
        self.batch = [c for c in a if c in b and c in out]
        self.summed = [c for c in a if c in b and c not in out]
        self.left = [c for c in a if c not in b]
        self.right = [c for c in b if c not in a]
        self.sizes: dict[str, Any] = {}
        for term, operand in zip(terms, operands, strict=True):
            self.sizes |= dict(zip(term, operand.meta["val"].shape, strict=True))

    @classmethod
    def parse(cls, node: Node) -> _Equation | None:
        parsed = two_terms(node)
        if parsed is None:
            return None
        (a, b), terms, out = parsed
        made = cls(node, terms, (a, b), out)
        shapes = [
            dict(zip(term, operand.meta["val"].shape, strict=True))
            for term, operand in zip(terms, (a, b), strict=True)
        ]
        shared = (*made.batch, *made.summed)
        broadcast = any(str(shapes[0][c]) != str(shapes[1][c]) for c in shared)
        whole = set(made.left + made.right) <= set(out)
        return made if whole and not broadcast else None

    def multiply(self, program: Program) -> Node:
        """No letter is summed: both operands in the result's order, with axes of size 1."""
        first, second = (self._aligned(program, i) for i in (0, 1))
        return program.call_op(self.node, aten.mul.Tensor, first, second)

    def _aligned(self, program: Program, index: int) -> Node:
        term = self.terms[index]
        wanted = [c for c in self.out if c in term]
        value = self._permuted(program, self.operands[index], term, wanted)
        for axis, letter in enumerate(self.out):
            if letter not in term:
                value = program.call_op(self.node, aten.unsqueeze.default, value, axis)
        return value

    def matmul(self, program: Program) -> Node | None:
        """``(batch, left, summed) @ (batch, summed, right)``, taken apart again."""
        if any(self._unknown(letters) > 1 for letters in (self.left, self.right)):
            return None
        a = self._grouped(program, 0, self.left, self.summed)
        b = self._grouped(program, 1, self.summed, self.right)
        made = program.call_op(self.node, aten.matmul.default, a, b)
        at = len(self.batch)
        made = self._taken_apart(program, made, at + 1, self.right)
        made = self._taken_apart(program, made, at, self.left)
        return self._permuted(program, made, [*self.batch, *self.left, *self.right], self.out)

    def _unknown(self, letters: list[str]) -> int:
        return sum(isinstance(self.sizes[c], torch.SymInt) for c in letters)

    def _grouped(self, program: Program, index: int, rows: list[str], columns: list[str]) -> Node:
        """An operand as ``(batch, rows, columns)``, each group of letters one axis."""
        value = self._permuted(
            program, self.operands[index], self.terms[index], [*self.batch, *rows, *columns]
        )
        at = len(self.batch) + len(rows)
        for start, letters in ((at, columns), (len(self.batch), rows)):
            if not letters:
                value = program.call_op(self.node, aten.unsqueeze.default, value, start)
            elif len(letters) > 1:
                end = start + len(letters) - 1
                value = program.call_op(self.node, aten.flatten.using_ints, value, start, end)
        return value

    def _taken_apart(self, program: Program, value: Node, axis: int, letters: list[str]) -> Node:
        if not letters:
            return program.call_op(self.node, aten.squeeze.dim, value, axis)
        if len(letters) == 1:
            return value
        sizes = [self.sizes[c] for c in letters]
        sizes = [-1 if isinstance(size, torch.SymInt) else int(size) for size in sizes]
        return program.call_op(self.node, aten.unflatten.int, value, axis, sizes)

    def _permuted(
        self, program: Program, value: Node, letters: Sequence[str], wanted: Sequence[str]
    ) -> Node:
        order = [list(letters).index(c) for c in wanted]
        if order == sorted(order):
            return value
        return program.call_op(self.node, aten.permute.default, value, order)
