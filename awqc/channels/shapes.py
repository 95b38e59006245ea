"""Concrete sizes for values with dynamic axes, small ones where the graph allows it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import sympy
import torch
from torch import Tensor
from torch.fx import Graph, Node

from awqc.channels.moves import Move
from awqc.graph.families import SPLITS_BY_SIZES
from awqc.graph.ops import argument, first_argument

SMALL = (2, 3, 5, 7, 11, 13, 17, 19)


class SizesError(Exception):
    """The sizes that were chosen for dynamic axes do not fit together."""


class Shapes:
    """Gives each symbol one size, so that every shape of the graph is concrete.

    The analysis runs shape operations on index tensors; small sizes keep that cheap, and
    distinct ones keep different axes apart. ``small=False`` takes the example's sizes.

    ``constants`` are the integer tensors of the program, which pick elements. Sizes that follow
    from data are free, but those of the parts in ``splits`` add up to the axis that is cut.

    Attributes:
        moves: what operations that move elements do to these sizes, kept for the next site.
    """

    def __init__(
        self,
        small: bool = True,
        constants: Mapping[Node, Tensor] | None = None,
        splits: Iterable[Node] = (),
    ) -> None:
        self._small = small
        self._constants = constants or {}
        self._sizes: dict[sympy.Symbol, int] = {}
        self._worked_out: dict[sympy.Expr, int] = {}
        self._shapes: dict[Node, tuple[int, ...]] = {}
        self.moves: dict[Node, Move | None] = {}
        for split in splits:
            self._divide(split)

    @contextmanager
    def fitting(self, *refusals: type[Exception]) -> Iterator[None]:
        """Take what torch raises for sizes that do not fit together for that.

        Only where some size was chosen here: the example's own sizes fit, and what is raised
        with these alone is a fault of the code inside.

        Raises:
            SizesError: one of ``refusals`` came, and may be due to a chosen size.
        """
        try:
            yield
        except refusals as error:
            if not self._sizes:
                raise
            raise SizesError(str(error)) from error

    def size(self, value: Any, least: int = 1) -> int:
        """``value`` (int or SymInt) as an int; symbols without a size yet get ``least`` or more.

        Raises:
            SizesError: it divides by a size that comes out as zero.
        """
        if isinstance(value, torch.SymInt):
            if not self._small and value.node.has_hint():
                return int(value.node.hint)
            expression = value.node.expr
            if expression in self._worked_out:
                return self._worked_out[expression]
            for symbol in sorted(expression.free_symbols, key=str):
                self._choose(symbol, value.node.shape_env, least)
            with self.fitting(ZeroDivisionError, TypeError):  # TypeError: infinite
                self._worked_out[expression] = int(expression.subs(self._sizes))
            return self._worked_out[expression]
        return int(value)

    def shape(self, node: Node) -> tuple[int, ...]:
        """Sizes of the tensor that ``node`` makes.

        Raises:
            SizesError: a dynamic axis comes out empty, and would hide its labels.
        """
        if node in self._shapes:
            return self._shapes[node]
        given = node.meta["val"].shape
        shape = tuple(self.size(size) for size in given)
        for size, made in zip(given, shape, strict=True):
            if made < 1 and isinstance(size, torch.SymInt):
                raise SizesError(f"{node.name} is empty")
        self._shapes[node] = shape
        return shape

    def concrete(self, argument: Any) -> Any:
        """An argument of a call: symbolic sizes become ints, constants tensors, the rest stays."""
        if isinstance(argument, Node) and argument in self._constants:
            return self._constants[argument]
        value = argument.meta.get("val") if isinstance(argument, Node) else argument
        return self.size(value) if isinstance(value, torch.SymInt) else argument

    def _choose(self, symbol: sympy.Symbol, shape_env: Any, least: int) -> None:
        if symbol not in self._sizes:
            bounds = shape_env.var_to_range.get(symbol)
            lower = int(bounds.lower) if bounds is not None and bounds.lower.is_Integer else 2
            lower = max(lower, least)
            upper = int(bounds.upper) if bounds is not None and bounds.upper.is_Integer else None
            taken = set(self._sizes.values())
            free = [size for size in SMALL if size >= lower and size not in taken]
            size = free[0] if free else max(lower, max(taken, default=1) + 1)
            self._sizes[symbol] = size if upper is None else min(size, upper)

    def _divide(self, split: Node) -> None:
        """Choose sizes of parts that follow from data: as equal as can be."""
        parts, axis = split.meta["val"], axis_of(split)
        whole, free = first_argument(split).meta["val"].shape[axis], []
        left = self.size(whole, least=len(parts))
        for part in parts:
            size = part.shape[axis]
            symbol = size.node.expr if isinstance(size, torch.SymInt) else None
            if isinstance(symbol, sympy.Symbol) and symbol not in self._sizes:
                free.append(symbol)
            else:
                left -= self.size(size)
        for index, symbol in enumerate(free):
            self._sizes[symbol] = left // (len(free) - index)
            left -= self._sizes[symbol]


def axis_of(split: Node) -> int:
    """The axis along which ``split`` cuts."""
    axis = argument(split, "dim")
    assert isinstance(axis, int)
    return axis


def free_splits(graph: Graph) -> list[Node]:
    """The calls that cut a tensor into parts whose sizes follow from data."""
    return [node for node in graph.nodes if node.target in SPLITS_BY_SIZES and _is_free(node)]


def _is_free(split: Node) -> bool:
    sizes = [part.shape[axis_of(split)] for part in split.meta["val"]]
    return any(isinstance(size, torch.SymInt) and not size.node.has_hint() for size in sizes)
