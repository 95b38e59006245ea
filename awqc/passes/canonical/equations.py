"""Write einsums as einsums of two, with a letter for each axis."""

from __future__ import annotations

import string
from collections import Counter

import torch
from torch.fx import Node

from awqc.graph.ops import argument
from awqc.passes.base import Change
from awqc.program import Program

aten = torch.ops.aten


def write_out_einsums(program: Program) -> list[Change]:
    """``einsum("...ij,jk,k", a, b, c)  ->  einsum("xik,k->xi", einsum("xij,jk->xik", a, b), c)``.

    Dots become letters, the result is written down, a letter that stands in one operand alone
    is summed there, more than two operands are multiplied from the left, and an einsum of one
    is a permutation. Left alone: diagonals, and letters of different sizes.
    """
    changes = []
    for node in list(program.graph.nodes):
        if node.op != "call_function" or node.target is not aten.einsum.default:
            continue
        given = str(argument(node, "equation")).replace(" ", "")
        values = list(argument(node, "tensors"))
        equation = _spelled(given, [value.meta["val"].ndim for value in values])
        if equation is None or (
            (",".join(equation[0]) + "->" + equation[1], len(values)) == (given, 2)
            and not _summed_alone(*equation)
        ):
            continue
        node.replace_all_uses_with(_by_twos(program, node, values, *equation))
        program.graph.erase_node(node)
        changes.append(Change(node.name, "written as einsums of two"))
    return changes


def _spelled(text: str, ranks: list[int]) -> tuple[list[str], str] | None:
    """The terms of an equation and of its result without dots; None where one has a diagonal."""
    inside, arrow, out = text.partition("->")
    terms = inside.split(",")
    if len(terms) != len(ranks):
        return None
    unused = [letter for letter in string.ascii_letters if letter not in text]
    dots = [rank - len(term.replace("...", "")) for term, rank in zip(terms, ranks, strict=True)]
    spare = "".join(unused[: max(dots)]) if max(dots) else ""
    terms = [
        term.replace("...", spare[len(spare) - count :])
        for term, count in zip(terms, dots, strict=True)
    ]
    counts = Counter("".join(terms))
    if not arrow:
        out = "..." + "".join(sorted(c for c, n in counts.items() if n == 1 and c not in spare))
    out = out.replace("...", spare)
    diagonal = any(len(set(term)) != len(term) for term in (*terms, out))
    return None if diagonal or any(count < 0 for count in dots) else (terms, out)


def _summed_alone(terms: list[str], out: str) -> list[tuple[int, str]]:
    """Operands and the letters that stand nowhere but in them."""
    counts = Counter("".join(terms))
    return [
        (index, letter)
        for index, term in enumerate(terms)
        for letter in term
        if counts[letter] == 1 and letter not in out
    ]


def _by_twos(program: Program, node: Node, values: list[Node], terms: list[str], out: str) -> Node:
    for index, letter in _summed_alone(terms, out):
        axis = terms[index].index(letter)
        values[index] = program.call_op(node, aten.sum.dim_IntList, values[index], [axis])
        terms[index] = terms[index].replace(letter, "")
    while len(values) > 2:
        wanted = {*out, *"".join(terms[2:])}
        made = "".join(c for c in dict.fromkeys(terms[0] + terms[1]) if c in wanted)
        product = _einsum(program, node, values[:2], terms[:2], made)
        values, terms = [product, *values[2:]], [made, *terms[2:]]
    if len(values) == 2:
        return _einsum(program, node, values, terms, out)
    order = [terms[0].index(letter) for letter in out]
    return program.call_op(node, aten.permute.default, values[0], order)


def _einsum(program: Program, node: Node, values: list[Node], terms: list[str], out: str) -> Node:
    return program.call_op(node, aten.einsum.default, f"{terms[0]},{terms[1]}->{out}", values)
