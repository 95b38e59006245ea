"""Questions about values of an ONNX graph: constants, sizes, who makes and who reads them."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping
from operator import add, floordiv, mul, sub
from typing import Any

Value = Any
"""An `onnx_ir.Value`."""
Node = Any
"""An `onnx_ir.Node`."""

_OPERATIONS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: add,
    ast.Sub: sub,
    ast.Mult: mul,
    ast.FloorDiv: floordiv,
}


def maker(value: Value | None, *ops: str) -> Node:
    """The node that makes ``value`` if it is one of ``ops`` (or none are named); else None."""
    node = value.producer() if value is not None else None
    return node if node is not None and (not ops or node.op_type in ops) else None


def scalar(value: Value | None) -> float | None:
    """The number that a constant of one element is, or None."""
    if value is None or value.const_value is None or value.const_value.size != 1:
        return None
    return float(value.const_value.numpy().reshape(()))


def numbers(value: Value | None) -> list[int] | None:
    """The whole numbers of a small constant, or None."""
    if value is None or value.const_value is None or value.const_value.size > 16:
        return None
    return [int(each) for each in value.const_value.numpy().reshape(-1)]


def with_scalar(node: Node) -> tuple[Value, float] | None:
    """Of a node with two operands, one of them a number: the other operand, and the number.

    Of Sub and Div the number must come second.
    """
    first, second = node.inputs[:2]
    if (number := scalar(second)) is not None:
        return first, number
    if node.op_type in ("Mul", "Add") and (number := scalar(first)) is not None:
        return second, number
    return None


def readers(value: Value) -> list[Node]:
    """The nodes that read ``value``."""
    return [node for node, _ in value.uses()]


def only_reader(value: Value) -> Node | None:
    """The one node that reads ``value``, if nothing else does."""
    found = readers(value)
    return found[0] if len(found) == 1 and not value.is_graph_output() else None


def dims(value: Value | None) -> list[int | str] | None:
    """Sizes of ``value``, an unknown one as its symbol; None where they are not known."""
    if value is None or value.shape is None:
        return None
    sizes: list[int | str] = []
    for size in value.shape:
        if isinstance(size, int):
            sizes.append(size)
        elif size.value is None:
            return None
        else:
            sizes.append(str(size.value))
    return sizes


def size_in(size: int | str, symbols: Mapping[str, int]) -> int | None:
    """A size such as ``past + sequence`` as a number; None where a symbol is not known.

    >>> size_in("2*sequence + past", {"past": 5, "sequence": 3})
    11
    """
    if isinstance(size, int):
        return size
    if size in symbols:
        return symbols[size]
    try:
        return _number(ast.parse(size, mode="eval").body, symbols)
    except SyntaxError:
        return None


def _number(tree: ast.expr, symbols: Mapping[str, int]) -> int | None:
    if isinstance(tree, ast.Constant) and isinstance(tree.value, int):
        return tree.value
    if isinstance(tree, ast.Name):
        return symbols.get(tree.id)
    if isinstance(tree, ast.BinOp) and type(tree.op) in _OPERATIONS:
        left, right = _number(tree.left, symbols), _number(tree.right, symbols)
        if left is not None and right is not None:
            return _OPERATIONS[type(tree.op)](left, right)
    return None


class CircleError(Exception):
    """A node reads what it makes, by others in between."""


def ancestors(outputs: list[Value], stops: set[Value]) -> Iterator[Node]:
    """The nodes that make ``outputs`` out of ``stops`` and what has no maker, each after those
    that it reads.

    Raises:
        CircleError: there is no such order.
    """
    done: set[Node] = set()
    begun: set[Node] = set()
    waiting = [(node, False) for value in outputs if (node := _before(value, stops))]
    while waiting:
        node, ready = waiting.pop()
        if ready and node not in done:
            done.add(node)
            yield node
        elif node not in done:
            if node in begun:
                raise CircleError
            begun.add(node)
            waiting.append((node, True))
            makers = (_before(value, stops) for value in node.inputs)
            waiting += [(each, False) for each in makers if each is not None and each not in done]


def _before(value: Value | None, stops: set[Value]) -> Node | None:
    return None if value is None or value in stops else value.producer()
