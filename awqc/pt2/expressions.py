"""Read symbolic sizes, written as sympy's ``srepr``, without evaluating their text.

``Add(Symbol('s0', positive=True, integer=True), Integer(1))`` is parsed to a syntax tree, of
which calls of the functions on the list, with expressions as arguments, are made into sympy
objects. Nothing of the text reaches `sympy.sympify`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from typing import Any

import sympy
from sympy.functions.elementary.piecewise import ExprCondPair
from torch.utils._sympy import functions as torch_functions

from awqc.pt2.failures import NotAllowedError
from awqc.pt2.texts import is_symbol

MAX_LENGTH, MAX_DEPTH = 2**14, 64
MAX_BITS, MAX_EXPONENT = 2**12, 64
"""Of integers; with larger ones a short text takes all memory."""

_FLOAT = re.compile(r"-?[0-9]{1,40}(?:\.[0-9]{0,400})?(?:[eE][+-]?[0-9]{1,3})?")
_ASSUMPTIONS = frozenset({
    *("integer", "positive", "nonnegative", "negative", "nonpositive", "nonzero", "zero", "real"),
    *("extended_real", "finite", "infinite", "rational", "even", "odd", "prime", "commutative"),
})  # fmt: skip
_POWERS = frozenset({"Pow", "PowByNatural", "FloatPow", "LShift"})
_SYMPY = (
    *(sympy.Add, sympy.Mul, sympy.Pow, sympy.Abs, sympy.floor, sympy.ceiling),
    *(sympy.Eq, sympy.Ne, sympy.Lt, sympy.Le, sympy.Gt, sympy.Ge),
    *(sympy.And, sympy.Or, sympy.Not, sympy.Piecewise, ExprCondPair),
)
_CONSTANTS = {"true": sympy.true, "false": sympy.false, "oo": sympy.oo}


def _functions() -> dict[str, Callable[..., Any]]:
    """sympy's operations, and every function of sizes that torch adds, by the names in srepr."""
    added = [
        value
        for value in vars(torch_functions).values()
        if isinstance(value, type)
        and issubclass(value, sympy.Function | torch_functions.Max | torch_functions.Min)
        and value.__module__ == torch_functions.__name__
    ]
    return {function.__name__: function for function in (*_SYMPY, *added)}


FUNCTIONS = _functions()


def read_expression(text: str) -> sympy.Basic:
    """The expression that ``text``, written by ``sympy.srepr``, stands for.

    Raises:
        NotAllowedError: it is anything else.
    """
    if len(text) > MAX_LENGTH or not text.isascii():
        raise _refusal(text)
    try:
        tree = ast.parse(text, mode="eval")
        value = _read(tree.body, 0)
    except Exception as error:
        raise _refusal(text) from error
    if not isinstance(value, sympy.Basic):
        raise _refusal(text)
    return value


def _read(node: ast.expr, depth: int) -> sympy.Basic:
    if depth > MAX_DEPTH:
        raise ValueError("too deep")
    if isinstance(node, ast.Name):
        return _CONSTANTS[_known(node.id, _CONSTANTS)]
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
        raise ValueError("no call")
    name = node.func.id
    if name in _LITERALS:
        return _LITERALS[name](*map(_literal, node.args), **_keywords(node))
    function = FUNCTIONS[_known(name, FUNCTIONS)]
    if node.keywords:
        raise ValueError("keywords")
    arguments = [_read(argument, depth + 1) for argument in node.args]
    if name in _POWERS:
        _check_exponent(arguments)
    value = function(*arguments)
    if not isinstance(value, sympy.Basic):
        value = sympy.sympify(value, strict=True)
    return _small(value)


def _known(name: str, table: dict[str, Any]) -> str:
    if name not in table:
        raise ValueError(f"{name} is not on the list")
    return name


def _literal(node: ast.expr) -> int | str | bool:
    """The value of an argument that is no expression."""
    sign = 1
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        node, sign = node.operand, -1
    if not isinstance(node, ast.Constant):
        raise ValueError("no literal")
    value = node.value
    if type(value) is int:
        return sign * value
    if sign == -1 or not isinstance(value, str | bool):
        raise ValueError("no literal")
    return value


def _keywords(node: ast.Call) -> dict[str, Any]:
    return {str(keyword.arg): _literal(keyword.value) for keyword in node.keywords}


def _integer(value: object) -> sympy.Basic:
    if type(value) is not int:
        raise ValueError("no int")
    return _small(sympy.Integer(value))


def _rational(over: object, under: object) -> sympy.Basic:
    return sympy.Rational(_integer(over), _integer(under))


def _float(text: object, precision: object = 53) -> sympy.Basic:
    if not isinstance(text, str) or not _FLOAT.fullmatch(text):
        raise ValueError("no float")
    if type(precision) is not int or not 1 <= precision <= 1024:
        raise ValueError("no precision")
    return sympy.Float(text, precision=precision)


def _symbol(name: object, **assumptions: object) -> sympy.Basic:
    if not isinstance(name, str) or not is_symbol(name):
        raise ValueError("no symbol")
    for key, value in assumptions.items():
        if key not in _ASSUMPTIONS or type(value) is not bool:
            raise ValueError("no assumption")
    return sympy.Symbol(name, **assumptions)


_LITERALS: dict[str, Callable[..., sympy.Basic]] = {
    "Integer": _integer,
    "Rational": _rational,
    "Float": _float,
    "Symbol": _symbol,
}


def _check_exponent(arguments: list[sympy.Basic]) -> None:
    exponent = arguments[-1]
    if exponent.is_number and not abs(exponent) <= MAX_EXPONENT:  # type: ignore[arg-type]  # is_number says so
        raise ValueError("exponent")


def _small(value: sympy.Basic) -> sympy.Basic:
    for atom in value.atoms(sympy.Rational):
        if max(int(atom.p).bit_length(), int(atom.q).bit_length()) > MAX_BITS:
            raise ValueError("too large")
    return value


def _refusal(text: str) -> NotAllowedError:
    return NotAllowedError(f"{text[:80]!r} as the expression of a size")
