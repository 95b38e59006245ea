"""Every expression that torch writes is read as itself; other text is refused."""

from __future__ import annotations

import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._sympy import functions as torch_functions
from torch.utils._sympy.functions import FloorDiv, Max, Min, Mod, PythonMod

from awqc.pt2.expressions import FUNCTIONS, read_expression
from awqc.pt2.failures import NotAllowedError

SIZES = [sympy.Symbol(f"s{i}", positive=True, integer=True) for i in range(3)]
UNBACKED = sympy.Symbol("u0", integer=True)
FLOAT = sympy.Symbol("zf1")


def rebuilt(expression: sympy.Basic) -> sympy.Basic:
    """The same, made anew: torch leaves some minima of numbers as they are inside of a maximum."""
    if not expression.args:
        return expression
    return expression.func(*map(rebuilt, expression.args))


def checked(expression: sympy.Basic) -> None:
    assert read_expression(sympy.srepr(expression)) in (expression, rebuilt(expression))


INTEGERS = st.recursive(
    st.one_of(st.sampled_from([*SIZES, UNBACKED]), st.integers(-(2**40), 2**40).map(sympy.Integer)),
    lambda deeper: st.one_of(
        st.builds(lambda a, b: a + b, deeper, deeper),
        st.builds(lambda a, b: a - b, deeper, deeper),
        st.builds(lambda a, b: a * b, deeper, deeper),
        st.builds(lambda a, n: a**n, st.sampled_from(SIZES), st.integers(1, 4)),
        st.builds(FloorDiv, deeper, st.integers(1, 9).map(sympy.Integer)),
        st.builds(FloorDiv, deeper, st.sampled_from(SIZES)),
        st.builds(PythonMod, deeper, st.integers(1, 9).map(sympy.Integer)),
        st.builds(Mod, st.sampled_from(SIZES), st.integers(1, 9).map(sympy.Integer)),
        st.builds(Max, deeper, deeper),
        st.builds(Min, deeper, deeper),
    ),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(INTEGERS)
def test_sizes_are_read_as_themselves(expression: sympy.Expr) -> None:
    checked(expression)


@settings(max_examples=60, deadline=None)
@given(INTEGERS, INTEGERS, st.sampled_from(["Eq", "Ne", "Lt", "Le", "Gt", "Ge"]))
def test_comparisons_are_read_as_themselves(a: sympy.Expr, b: sympy.Expr, how: str) -> None:
    comparison = getattr(sympy, how)(a, b)
    checked(comparison)
    checked(sympy.Not(comparison))
    checked(sympy.And(comparison, sympy.Eq(SIZES[0], 3)))
    checked(sympy.Or(comparison, sympy.Eq(SIZES[0], 3)))


@settings(max_examples=60, deadline=None)
@given(INTEGERS, st.floats(-1e30, 1e30))
def test_floats_of_sizes_are_read_as_themselves(size: sympy.Expr, number: float) -> None:
    wide = torch_functions.ToFloat(size)
    for expression in (
        torch_functions.FloatTrueDiv(wide, sympy.Float(2.5)),
        torch_functions.IntTrueDiv(size, sympy.Integer(3)),
        torch_functions.CeilToInt(wide * sympy.Float(number)),
        torch_functions.FloorToInt(wide * sympy.Float(number)),
        torch_functions.TruncToInt(FLOAT + sympy.Float(number)),
        torch_functions.RoundToInt(FLOAT * sympy.Rational(1, 2)),
        torch_functions.FloatPow(FLOAT, sympy.Float(0.5)),
        torch_functions.OpaqueUnaryFn_sqrt(FLOAT * wide),
    ):
        checked(expression)


def test_every_function_of_torch_s_own_loader_is_known() -> None:
    """The names that torch 2.13 hands to sympify, and what it prints besides."""
    names = {
        *("FloorDiv", "ModularIndexing", "Where", "PythonMod", "Mod", "CleanDiv", "CeilToInt"),
        *("FloorToInt", "CeilDiv", "LShift", "RShift", "PowByNatural", "FloatPow"),
        *("FloatTrueDiv", "IntTrueDiv", "IsNonOverlappingAndDenseIndicator", "TruncToFloat"),
        *("TruncToInt", "RoundToInt", "RoundDecimal", "ToFloat", "Identity", "Max", "Min"),
        *("BitwiseFn_bitwise_and", "OpaqueUnaryFn_log2", "Piecewise", "ExprCondPair"),
    }
    assert names <= set(FUNCTIONS)
    assert FUNCTIONS["Max"] is Max


@pytest.mark.parametrize(
    "text",
    [
        "Symbol('s0', positive=True, integer=True)",
        "Max(Integer(1), Add(Integer(-2), Symbol('s0', integer=True)))",
        "Piecewise(ExprCondPair(Integer(1), Equality(Symbol('s0'), Integer(2))), "
        "ExprCondPair(Integer(3), true))",
        "Float('1.5e-10', precision=53)",
        "Rational(-1, 3)",
        "oo",
        "PowByNatural(Integer(2), Symbol('s0'))",
    ],
)
def test_texts_that_torch_writes(text: str) -> None:
    assert isinstance(read_expression(text), sympy.Basic)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "s0",
        "1",
        "s0 + 1",
        "__import__('os').system('true')",
        "open('owned', 'w')",
        "Symbol('s0').__class__",
        "Symbol('s0').subs",
        "Symbol('s0')()",
        "(lambda: Integer(1))()",
        "[Integer(1) for x in (1,)]",
        "Add(*[Integer(1)])",
        "Add(**{'a': Integer(1)})",
        "Add(Integer(1), evaluate=False)",
        "Integer(open)",
        "Integer('1')",
        "Integer(1.5)",
        "Integer(True)",
        "Symbol('__import__(0)')",
        "Symbol('s0; import os')",
        "Symbol('s0', seq=True)",
        "Symbol('s0', integer='yes')",
        "Symbol('__class__')",
        "Symbol(s0)",
        "Function('eval')(Integer(1))",
        "Lambda(Symbol('x'), Symbol('x'))",
        "sympify('1')",
        "parse_expr('1')",
        "lambdify(Symbol('x'), Symbol('x'))",
        "f'{1}'",
        "Float('0x10')",
        "Float('1e999999999')",
        "Float('1', precision=10000000)",
        "Pow(Integer(10), Integer(1000000000))",
        "LShift(Integer(1), Integer(1000000000))",
        "PowByNatural(Integer(2), Integer(1000000000))",
        "Pow(" * 8 + "Integer(99)" + ", Integer(64))" * 8,
        "Integer(" + "9" * 5000 + ")",
        "Add(" * 100 + "Integer(1)" + ")" * 100,
        "(" * 9000 + ")" * 9000,
        "Add(" * 5000,
        "x" * 20000,
        "Integer(1)\nInteger(2)",
        "Integer(1);",
        "Ѕymbol('s0')",
        "Max(Integer(1), 'open')",
        "And(Integer(1), Integer(2))",
        "Mod(Integer(1), Integer(0))",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(NotAllowedError, match="as the expression of a size"):
        read_expression(text)
