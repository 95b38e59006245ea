"""Concrete sizes for values with dynamic axes, small ones where the graph allows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sympy
import torch
from torch import Tensor
from torch.fx import Node

SMALL = (2, 3, 5, 7, 11, 13, 17, 19)


class Shapes:
    """Gives each symbol one size, so that every shape of the graph is concrete.

    The analysis runs shape operations on index tensors; small sizes keep that cheap, and
    distinct ones keep different axes apart. ``small=False`` takes the example's sizes.

    ``constants`` are the integer tensors of the program, which pick elements.

    Attributes:
        sources: what operations that move elements do to these sizes, kept for the next site.
    """

    def __init__(self, small: bool = True, constants: Mapping[Node, Tensor] | None = None) -> None:
        self._small = small
        self._constants = constants or {}
        self._sizes: dict[sympy.Symbol, int] = {}
        self._worked_out: dict[sympy.Expr, int] = {}
        self._shapes: dict[Node, tuple[int, ...]] = {}
        self.sources: dict[Node, list[Tensor] | None] = {}

    def size(self, value: Any) -> int:
        """``value`` (int or SymInt) as an int."""
        if isinstance(value, torch.SymInt):
            if not self._small and value.node.has_hint():
                return int(value.node.hint)
            expression = value.node.expr
            if expression in self._worked_out:
                return self._worked_out[expression]
            for symbol in sorted(expression.free_symbols, key=str):
                self._choose(symbol, value.node.shape_env)
            self._worked_out[expression] = int(expression.subs(self._sizes))
            return self._worked_out[expression]
        return int(value)

    def shape(self, node: Node) -> tuple[int, ...]:
        """Sizes of the tensor that ``node`` makes.

        Raises:
            RuntimeError: a dynamic axis comes out empty, and would hide its labels.
        """
        if node in self._shapes:
            return self._shapes[node]
        given = node.meta["val"].shape
        shape = tuple(self.size(size) for size in given)
        for size, made in zip(given, shape, strict=True):
            if made < 1 and isinstance(size, torch.SymInt):
                raise RuntimeError(f"{node.name} is empty")
        self._shapes[node] = shape
        return shape

    def concrete(self, argument: Any) -> Any:
        """An argument of a call: symbolic sizes become ints, constants tensors, the rest stays."""
        if isinstance(argument, Node) and argument in self._constants:
            return self._constants[argument]
        value = argument.meta.get("val") if isinstance(argument, Node) else argument
        return self.size(value) if isinstance(value, torch.SymInt) else argument

    def _choose(self, symbol: sympy.Symbol, shape_env: Any) -> None:
        if symbol not in self._sizes:
            bounds = shape_env.var_to_range.get(symbol)
            lower = int(bounds.lower) if bounds is not None and bounds.lower.is_Integer else 2
            upper = int(bounds.upper) if bounds is not None and bounds.upper.is_Integer else None
            taken = set(self._sizes.values())
            free = [size for size in SMALL if size >= lower and size not in taken]
            size = free[0] if free else max(lower, max(taken, default=1) + 1)
            self._sizes[symbol] = size if upper is None else min(size, upper)
