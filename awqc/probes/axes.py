"""The axes of a program that are free, and what its capture took for granted of their sizes."""

from __future__ import annotations

import ast
import operator
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import sympy
import torch
from torch._ops import OpOverload
from torch.fx import Node
from torch.utils._pytree import tree_leaves

from awqc.graph.nodes import shape_of
from awqc.graph.ops import in_order
from awqc.program import Program

aten = torch.ops.aten

SMALLEST = 2
"""Below it torch.export always makes a case of its own."""

_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Pow: operator.pow,
    ast.Div: operator.truediv, ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod,
}  # fmt: skip

Sizes = Mapping[sympy.Symbol, int]
"""A size for each free axis, by its name."""


@dataclass(frozen=True)
class FreeAxes:
    """The free axes of a program's inputs.

    Attributes:
        shapes: sizes of each input, as expressions of the names of free axes.
        example: the example's sizes.
        places: for each name the input and the axis that show it.
        conditions: what holds of the sizes for which the graph was captured.
        constants: whole numbers in the graph, which a size may equal by chance.
        made: how many tensors of each number of elements the graph makes.
        steps: what sizes are multiples of, where that is not 1.
    """

    shapes: Mapping[str, tuple[sympy.Expr, ...]]
    example: dict[sympy.Symbol, int]
    places: dict[sympy.Symbol, tuple[str, int]]
    conditions: tuple[sympy.Basic, ...] = ()
    constants: frozenset[int] = field(default_factory=frozenset)
    made: Mapping[sympy.Expr, int] = field(default_factory=dict)
    steps: Mapping[sympy.Symbol, int] = field(default_factory=dict)

    def allowed(self, sizes: Sizes) -> bool:
        """Whether all of ``sizes`` are multiples of their steps."""
        return not any(sizes[symbol] % step for symbol, step in self.steps.items())

    def elements(self, sizes: Sizes) -> int:
        """Elements of all tensors that the graph makes of inputs of ``sizes``.

        Those are left out whose number follows from more than the sizes, or which cannot be made
        at these.
        """
        counts = ((_number(each, sizes), times) for each, times in self.made.items())
        return sum(count * times for count, times in counts if count is not None)

    def broken(self, sizes: Sizes) -> list[sympy.Basic]:
        """The conditions that do not hold for ``sizes``."""
        return [each for each in self.conditions if breaks(each, sizes)]

    def describe(self, sizes: Sizes) -> str:
        """The sizes that are not the example's, such as ``axis 2 of x = 17``."""
        changed = [symbol for symbol in self.example if sizes[symbol] != self.example[symbol]]
        return ", ".join(f"{self.place(symbol)} = {sizes[symbol]}" for symbol in changed)

    def place(self, symbol: sympy.Symbol) -> str:
        """Where ``symbol`` shows, such as ``axis 2 of x``."""
        name, axis = self.places[symbol]
        return f"axis {axis} of {name}"


def _number(expression: sympy.Expr, sizes: Sizes) -> int | None:
    """``expression`` at ``sizes``; None where it stays open, or divides by a size that is zero."""
    try:
        value = expression.subs(dict(sizes))
    except ZeroDivisionError:
        return None
    return int(value) if value.is_Integer else None


def breaks(condition: sympy.Basic, sizes: Sizes) -> bool:
    """Whether ``condition`` does not hold for ``sizes``; where it stays open, it does."""
    values = {symbol: sympy.Integer(size) for symbol, size in sizes.items()}
    try:
        return bool(condition.xreplace(values) == sympy.false)
    except (ZeroDivisionError, AssertionError):
        # A remainder of a size that is cut into parts larger than itself, or of a negative one,
        # which torch's own remainder does not take.
        return True


def free_axes(program: Program) -> FreeAxes | None:
    """The free axes of ``program``.

    None where no axis is free, where one depends on others in a way that no axis shows, or where
    other sizes must not be tried, since an operation is `unchecked`.
    """
    if any(unchecked(node) for node in program.graph.nodes):
        return None
    placeholders = [node for node in program.graph.nodes if node.op == "placeholder"]
    shapes = {s.name: tuple(_expression(size) for size in s.shape) for s in program.inputs}
    example: dict[sympy.Symbol, int] = {}
    places: dict[sympy.Symbol, tuple[str, int]] = {}
    own: dict[sympy.Symbol, sympy.Expr] = {}
    for (name, shape), node in zip(shapes.items(), placeholders, strict=True):
        for axis, (size, traced) in enumerate(zip(shape, shape_of(node), strict=True)):
            if size.is_Symbol and size not in example:
                example[size] = program.example[name].shape[axis]
                places[size] = (name, axis)
            if isinstance(traced, torch.SymInt) and traced.node.expr.is_Symbol:
                own.setdefault(traced.node.expr, size)
    symbols = {
        symbol for shape in shapes.values() for size in shape for symbol in size.free_symbols
    }
    if not example or not symbols <= set(example):
        return None
    conditions = tuple(each.subs(own) for each in _conditions(placeholders))
    known = dict.fromkeys(c for c in conditions if set() < c.free_symbols <= set(example))
    numbers, made = frozenset(_numbers(program)), _made(program, own)
    steps = {symbol: program.interface.steps.get(str(symbol), 1) for symbol in example}
    steps = {symbol: step for symbol, step in steps.items() if step > 1}
    return FreeAxes(shapes, example, places, tuple(known), numbers, made, steps)


def _made(program: Program, own: Mapping[sympy.Symbol, sympy.Expr]) -> Counter[sympy.Expr]:
    """Tensors that calls make, by their number of elements; ``own`` names the graph's symbols."""
    values = (node.meta.get("val") for node in program.graph.nodes if node.op == "call_function")
    shapes = Counter(
        tuple(size.node.expr if isinstance(size, torch.SymInt) else size for size in value.shape)
        for value in values
        if isinstance(value, torch.Tensor)
    )
    made: Counter[sympy.Expr] = Counter()
    for shape, times in shapes.items():
        made[sympy.sympify(sympy.prod(shape)).subs(own)] += times
    return made


def _conditions(placeholders: list[Node]) -> Iterator[sympy.Basic]:
    """Ranges and guards, in the symbols of the graph that ``placeholders`` are of."""
    environments: dict[int, Any] = {}
    for node in placeholders:
        for size in shape_of(node):
            if not isinstance(size, torch.SymInt):
                continue
            environment = size.node.shape_env
            environments[id(environment)] = environment
            if (bounds := environment.var_to_range.get(size.node.expr)) is None:
                continue
            if bounds.lower.is_Integer and bounds.lower > SMALLEST:
                yield sympy.Ge(size.node.expr, bounds.lower)
            if bounds.upper.is_Integer:
                yield sympy.Le(size.node.expr, bounds.upper)
    for environment in environments.values():
        yield from (guard.expr for guard in environment.guards)


def _numbers(program: Program) -> Iterator[int]:
    """Whole numbers among the arguments and the sizes in the graph."""
    for node in program.graph.nodes:
        if isinstance(node.target, OpOverload):
            yield from (leaf for leaf in tree_leaves(in_order(node)) if type(leaf) is int)
        if isinstance(node.meta.get("val"), torch.Tensor):
            yield from (size for size in shape_of(node) if isinstance(size, int))


def _expression(size: int | str) -> sympy.Expr:
    """A size as a spec has it: a number, or words with arithmetic between them, never evaluated."""
    return _of_tree(ast.parse(str(size), mode="eval").body)


def _of_tree(tree: ast.expr) -> sympy.Expr:
    match tree:
        case ast.Constant(int() as value):
            return sympy.Integer(value)
        case ast.Name(name):
            return sympy.Symbol(name, integer=True, positive=True)
        case ast.UnaryOp(ast.USub(), inner):
            return -_of_tree(inner)
        case ast.BinOp(left, sign, right) if type(sign) in _ARITHMETIC:
            return _ARITHMETIC[type(sign)](_of_tree(left), _of_tree(right))
    raise ValueError(f"the size {ast.unparse(tree)!r} is no arithmetic of words and numbers")


def unchecked(node: Node) -> bool:
    """Whether the call ``node`` reads memory where its inputs say, without a look at the bounds.

    Offsets of bags that were made up end the process.
    """
    packet = getattr(node.target, "overloadpacket", None)
    return packet in (aten.embedding_bag, aten._embedding_bag, aten._embedding_bag_forward_only)
