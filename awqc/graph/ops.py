"""Arguments of the calls in a graph, by the names that the operation's schema gives them.

``sum(x, [1])`` and ``sum(x, dim=[1])`` are one call. Whoever asks for ``argument(node, "dim")``
sees no difference, and gets the default where the call leaves the argument out. No other file
looks at the places of a call.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from torch._ops import OpOverload
from torch.fx import Node
from torch.fx.node import map_aggregate

MISSING: Any = inspect.Parameter.empty
Call = tuple[tuple[Any, ...], dict[str, Any]]
"""Arguments by position, and by keyword."""


@dataclass(frozen=True)
class Parameter:
    """What an operation's schema says of one argument.

    Attributes:
        name: as in the schema.
        by_keyword: whether it can be given by keyword alone.
        default: its value where it is left out, or `MISSING`.
    """

    name: str
    by_keyword: bool
    default: Any = MISSING


@cache
def parameters(target: Any) -> tuple[Parameter, ...]:
    """The arguments of an operation, in order; of a Python function those that have a name."""
    if isinstance(target, OpOverload):
        return tuple(
            Parameter(
                str(given.name),
                bool(given.kwarg_only),
                given.default_value if given.has_default_value() else MISSING,
            )
            for given in target._schema.arguments
        )
    try:
        named = inspect.signature(target).parameters.values()
    except ValueError:
        return ()  # compiled into Python: it tells no names, and takes none
    return tuple(
        Parameter(each.name, each.kind is each.KEYWORD_ONLY, each.default)
        for each in named
        if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
    )


@cache
def _positions(target: Any) -> dict[str, int]:
    return {parameter.name: index for index, parameter in enumerate(parameters(target))}


def has_argument(target: Any, name: str) -> bool:
    """Whether the operation has an argument called ``name``."""
    return name in _positions(target)


def argument(node: Node, name: str) -> Any:
    """The argument ``name`` of the call ``node``, or its default.

    Raises:
        TypeError: the operation has none of that name, or the call lacks one that it needs.
    """
    if name in node.kwargs:
        return node.kwargs[name]
    position = _positions(node.target).get(name)
    if position is None:
        raise TypeError(f"{node.name}: {node.target} has no argument {name!r}")
    parameter = parameters(node.target)[position]
    if not parameter.by_keyword and position < len(node.args):
        return node.args[position]
    if parameter.default is MISSING:
        raise TypeError(f"{node.name}: the call of {node.target} lacks {name!r}")
    return parameter.default


def first_argument(node: Node) -> Any:
    """The first argument of the call ``node``, whatever its name; None if it has none.

    For families whose members call their operand ``self``, ``input`` or otherwise.
    """
    if node.args:
        return node.args[0]
    named = parameters(node.target) if node.kwargs else ()
    return node.kwargs.get(named[0].name) if named else None


def leading_arguments(node: Node, count: int) -> tuple[Any, ...]:
    """The first ``count`` arguments of the call ``node``, as `first_argument`.

    Raises:
        TypeError: the call lacks one of them.
    """
    names = [each.name for each in parameters(node.target)[:count]]
    return tuple(argument(node, name) for name in names)


def given_arguments(node: Node) -> dict[str, Any]:
    """What the call ``node`` says, by name, in the order of the schema."""
    named = parameters(node.target)
    by_place = [each.name for each in named if not each.by_keyword]
    given = {**dict(zip(by_place, node.args, strict=False)), **node.kwargs}
    return {name: given[name] for name in (*(each.name for each in named), *given) if name in given}


def arguments(node: Node) -> dict[str, Any]:
    """All arguments of the call ``node`` by name, in the order of the schema, defaults filled in.

    Raises:
        TypeError: the call lacks one that it needs.
    """
    return {each.name: argument(node, each.name) for each in parameters(node.target)}


def set_argument(node: Node, name: str, value: Any) -> None:
    """Let the call ``node`` pass ``value`` as ``name``: by position where that can be.

    Raises:
        TypeError: the operation has no argument of that name.
    """
    if not has_argument(node.target, name):
        raise TypeError(f"{node.name}: {node.target} has no argument {name!r}")
    position = _positions(node.target)[name]
    by_keyword = parameters(node.target)[position].by_keyword or position > len(node.args)
    if by_keyword:
        node.kwargs = {**node.kwargs, name: value}
        return
    node.kwargs = {key: other for key, other in node.kwargs.items() if key != name}
    node.args = (*node.args[:position], value, *node.args[position + 1 :])


def put_in_order(node: Node) -> bool:
    """Write the call ``node`` as `in_order` has it; whether that is another form."""
    args, kwargs = in_order(node)
    if args == node.args and list(kwargs.items()) == list(node.kwargs.items()):
        return False
    node.args, node.kwargs = args, kwargs
    return True


def in_order(node: Node) -> Call:
    """The call ``node`` with every argument by position that can be, up to the last one given.

    ``sum(x, dim=[1])  ->  sum(x, [1])``. Gaps are filled with defaults; what can be given by
    keyword alone comes in the order of the schema.
    """
    given = given_arguments(node)
    named = parameters(node.target)
    ordered = [each for each in named if not each.by_keyword]
    while ordered and ordered[-1].name not in given:
        ordered.pop()
    args = tuple(argument(node, each.name) for each in ordered)
    placed = {each.name for each in named if not each.by_keyword}
    rest = {name: value for name, value in given.items() if name not in placed}
    return (*args, *node.args[len(args) :]), rest


def change_arguments(node: Node, leaf: Callable[[Any], Any]) -> None:
    """Let the call ``node`` pass ``leaf`` of each leaf of its arguments instead."""
    node.args, node.kwargs = _mapped(node, leaf)


def _mapped(node: Node, leaf: Callable[[Any], Any]) -> Any:
    return map_aggregate((node.args, node.kwargs), leaf)


def call(node: Node, leaf: Callable[[Any], Any], **others: Any) -> Any:
    """What the call ``node`` gives, with ``leaf`` of each leaf of its arguments.

    ``others`` are arguments by name that take the place of its own.
    """
    assert callable(node.target)
    if others:
        named = {name: map_aggregate(value, leaf) for name, value in arguments(node).items()}
        return node.target(**{**named, **others})
    args, kwargs = _mapped(node, leaf)
    return node.target(*args, **kwargs)


def evaluate_call(node: Node, value: Callable[[Node], Any]) -> Any:
    """What the call ``node`` gives, with ``value`` of each node that it reads."""
    return call(node, lambda leaf: value(leaf) if isinstance(leaf, Node) else leaf)


def index_of(item: Node) -> int:
    """The number of the result that ``item``, a ``getitem`` of a call's results, picks."""
    assert item.target is operator.getitem, item
    index = argument(item, "b")
    assert isinstance(index, int)
    return index
