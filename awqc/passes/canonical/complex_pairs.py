"""Write complex numbers as pairs of real ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from awqc.graph.families import COPIES, JOINS, REARRANGED
from awqc.graph.ops import arguments, in_order
from awqc.passes.base import Change
from awqc.program import Program

aten = torch.ops.aten

Pair = tuple[Node, Node]
"""Real and imaginary part."""


def complex_to_pairs(program: Program) -> list[Change]:
    """``view_as_real(view_as_complex(x) * polar(1, t))  ->  stack(a c - b s, a s + b c)``.

    Rotary positions are often written with complex numbers, which neither the channel flow nor
    ONNX has. Left as it is: a graph with a complex input or output, or an operation on complex
    numbers that is not known here (Fourier transforms, products of complex matrices).
    """
    complex_nodes = [node for node in program.graph.nodes if _is_complex(node)]
    touching = {user for node in complex_nodes for user in node.users}
    if not complex_nodes or not all(map(_is_known, {*complex_nodes, *touching})):
        return []
    writer = _Writer(program)
    for node in list(program.graph.nodes):
        if _is_complex(node) or node in touching:
            writer.write(node)
    return [Change(complex_nodes[0].name, f"{len(complex_nodes)} complex values as real pairs")]


def _is_complex(node: Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.dtype.is_complex


def _is_known(node: Node) -> bool:
    if node.op == "get_attr":
        return True
    if node.op != "call_function" or node.target not in {*SHAPES, *LISTS, *MAKING, *READING}:
        return False
    # A sum with a factor (``alpha``), or parts of different types, are not worth their lines.
    given = arguments(node)
    plain = not any(isinstance(each, complex) for each in given.values())
    return plain and given.get("alpha", 1) == 1


class _Writer:
    """Writes nodes anew, in the order of the graph."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._pairs: dict[Node, Pair] = {}
        self._at: Node

    def write(self, node: Node) -> None:
        """Add what computes ``node`` in real numbers."""
        self._at = node
        if node.op == "get_attr":
            self._pairs[node] = self._stored(node)
            return
        given, options = in_order(node)
        if node.target in SHAPES:
            first, *rest = given
            real, imaginary = self.pair(first)
            self._pairs[node] = (
                self.op(node.target, real, *rest, **options),
                self.op(node.target, imaginary, *rest, **options),
            )
        elif node.target in LISTS:
            parts, *rest = given
            pairs = [self.pair(part) for part in parts]
            self._pairs[node] = (
                self.op(node.target, [pair[0] for pair in pairs], *rest),
                self.op(node.target, [pair[1] for pair in pairs], *rest),
            )
        elif node.target in MAKING:
            self._pairs[node] = MAKING[node.target](self, *given)
        else:
            made = READING[node.target](self, *given)
            node.replace_all_uses_with(made)

    def op(self, target: Any, *args: Any, **kwargs: Any) -> Node:
        """A call in the place of the node that is written."""
        return self._program.call_op(self._at, target, *args, **kwargs)

    def pair(self, value: Any) -> Pair:
        """Both parts of a complex or real operand; a number stays a number."""
        if isinstance(value, Node) and value in self._pairs:
            return self._pairs[value]
        zero: Any = self.op(aten.zeros_like.default, value) if isinstance(value, Node) else 0.0
        return value, zero

    def is_real(self, value: Any) -> bool:
        """Whether an operand has no imaginary part."""
        return value not in self._pairs

    def _stored(self, node: Node) -> Pair:
        name = str(node.target)
        value = self._program.weight(name)
        made = [
            self._program.add_weight(
                self._program.fresh_name(f"{name}.{part}"), values.contiguous(), node
            )
            for part, values in (("real", value.real), ("imag", value.imag))
        ]
        return made[0], made[1]


def _from_real(w: _Writer, x: Node) -> Pair:
    return w.op(aten.select.int, x, -1, 0), w.op(aten.select.int, x, -1, 1)


def _polar(w: _Writer, size: Node, angle: Node) -> Pair:
    return (
        w.op(aten.mul.Tensor, w.op(aten.cos.default, angle), size),
        w.op(aten.mul.Tensor, w.op(aten.sin.default, angle), size),
    )


def _given(w: _Writer, real: Node, imaginary: Node) -> Pair:
    return real, imaginary


def _product(w: _Writer, x: Any, y: Any) -> Pair:
    if w.is_real(x):
        x, y = y, x
    a, b = w.pair(x)
    if w.is_real(y):
        return w.op(aten.mul.Tensor, a, y), w.op(aten.mul.Tensor, b, y)
    c, d = w.pair(y)

    def times(left: Node, right: Node) -> Node:
        return w.op(aten.mul.Tensor, left, right)

    return (
        w.op(aten.sub.Tensor, times(a, c), times(b, d)),
        w.op(aten.add.Tensor, times(a, d), times(b, c)),
    )


def _each(target: Any) -> Callable[[_Writer, Any, Any], Pair]:
    """An operation that treats both parts of both operands alike."""

    def write(w: _Writer, x: Any, y: Any) -> Pair:
        (a, b), (c, d) = w.pair(x), w.pair(y)
        return w.op(target, a, c), w.op(target, b, d)

    return write


def _conjugate(w: _Writer, x: Node) -> Pair:
    real, imaginary = w.pair(x)
    return real, w.op(aten.neg.default, imaginary)


def _exponential(w: _Writer, x: Node) -> Pair:
    real, imaginary = w.pair(x)
    return _polar(w, w.op(aten.exp.default, real), imaginary)


def _to_real(w: _Writer, x: Node) -> Node:
    return w.op(aten.stack.default, list(w.pair(x)), -1)


def _size(w: _Writer, x: Node) -> Node:
    real, imaginary = w.pair(x)
    return w.op(aten.hypot.default, real, imaginary)


SHAPES = frozenset(
    {*COPIES, *REARRANGED, aten.contiguous.default, aten.neg.default, aten.resolve_conj.default}
)
"""What does the same to both parts."""

LISTS = frozenset(JOINS)
"""The same for several operands."""

MAKING: dict[Any, Callable[..., Pair]] = {
    aten.view_as_complex.default: _from_real,
    aten.polar.default: _polar,
    aten.complex.default: _given,
    aten.mul.Tensor: _product,
    aten.add.Tensor: _each(aten.add.Tensor),
    aten.sub.Tensor: _each(aten.sub.Tensor),
    aten.conj.default: _conjugate,
    aten._conj.default: _conjugate,
    aten.conj_physical.default: _conjugate,
    aten.exp.default: _exponential,
}
"""What gives a complex value."""

READING: dict[Any, Callable[..., Node]] = {
    aten.view_as_real.default: _to_real,
    aten.real.default: lambda w, x: w.pair(x)[0],
    aten.imag.default: lambda w, x: w.pair(x)[1],
    aten.abs.default: _size,
    aten.sym_size.int: lambda w, x, axis: w.op(aten.sym_size.int, w.pair(x)[0], axis),
}
"""What gives a real value of a complex one."""
