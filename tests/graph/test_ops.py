"""Arguments are asked for by name, in one place: also read from the syntax trees of all others."""

from __future__ import annotations

import ast
import operator
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.fx import Graph, Node

from awqc.graph.families import CONVOLUTIONS, FILLS, REARRANGED, RECURRENT, SPLITS, TRANSPOSED
from awqc.graph.ops import (
    argument,
    arguments,
    call,
    change_arguments,
    evaluate_call,
    first_argument,
    given_arguments,
    has_argument,
    in_order,
    index_of,
    leading_arguments,
    put_in_order,
    set_argument,
)

aten = torch.ops.aten
PACKAGE = Path(__file__).parents[2] / "awqc"
ROOM = "graph/ops.py"

ALLOWED = {
    "graph/nodes.py results_of": "what the output node holds is no operation's argument",
    "graph/nodes.py set_results": "as results_of",
    "graph/dump.py _call": "prints a call as it stands",
    "errors.py text": "of an exception",
    "pt2/expressions.py _read": "of a call in an expression of sizes, which is no node",
    "machine/devices.py place": "every leaf of every call; machine stands below graph",
}


def made(target: Any, *args: Any, **kwargs: Any) -> Node:
    return Graph().call_function(target, args, kwargs)


def picks(source: str) -> Iterator[tuple[str, int]]:
    """The function and the line of each look at the places of a call in ``source``."""
    owners: list[tuple[str, ast.AST]] = [("the module", ast.parse(source))]
    while owners:
        owner, tree = owners.pop()
        for node in ast.iter_child_nodes(tree):
            inside = isinstance(node, ast.FunctionDef) and owner == "the module"
            owners.append((node.name if inside else owner, node))  # type: ignore[attr-defined]  # inside says so
            if isinstance(node, ast.ClassDef) and owner == "the module":
                owners[-1] = ("the module", node)
            if isinstance(node, ast.Attribute) and node.attr in (
                "args",
                "kwargs",
                "update_arg",
                "update_kwarg",
                "normalized_arguments",
            ):
                yield owner, node.lineno
            if (
                isinstance(node, ast.Subscript)
                and isinstance(node.value, ast.Attribute)
                and node.value.attr == "all_input_nodes"
            ):
                yield owner, node.lineno


def test_one_file_alone_looks_at_the_places_of_a_call() -> None:
    found = {}
    for path in PACKAGE.rglob("*.py"):
        name = path.relative_to(PACKAGE).as_posix()
        if name != ROOM:
            found.update({f"{name} {where}": line for where, line in picks(path.read_text())})
    assert set(found) == set(ALLOWED), found
    assert sum(1 for _ in picks((PACKAGE / ROOM).read_text())) > 0


@pytest.mark.parametrize("source", [
    "def f(node): return node.args[1]",
    "def f(node): return node.args[1] if len(node.args) > 1 else 0",
    "def f(node): return node.kwargs.get('dim')",
    "def f(node): a, b = node.args[:2]",
    "def f(node): node.args = ()",
    "def f(node): return node.all_input_nodes[0]",
    "def f(node): node.update_arg(0, 1)",
    "class C:\n    def f(self, node): return [n for n in (lambda: node.kwargs)()]",
])  # fmt: skip
def test_such_a_look_is_found(source: str) -> None:
    assert {where for where, _ in picks(source)} == {"f"}


def test_families_are_listed_once() -> None:
    """No two lists in the package share three operations; those of ``families`` are one."""
    long: list[tuple[str, set[str]]] = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            listed: list[Any] = []
            if isinstance(node, ast.Tuple | ast.List | ast.Set):
                listed = node.elts
            elif isinstance(node, ast.Dict):
                listed = node.keys
            elif isinstance(node, ast.Call):
                listed = node.args
            names = {ast.unparse(each).removeprefix("torch.ops.") for each in listed if each}
            names = {name for name in names if name.startswith("aten.") and name.count(".") == 2}
            if len(names) > 2:
                long.append((f"{path.name}:{getattr(node, 'lineno', 0)}", names))
    assert len(long) > 20
    twice = [
        (place, other, sorted(names & others))
        for index, (place, names) in enumerate(long)
        for other, others in long[:index]
        if len(names & others) > 2
    ]
    assert twice == []


def test_an_argument_by_place_by_name_and_by_default() -> None:
    for node in (made(aten.sum.dim_IntList, 0, [1], True),
                 made(aten.sum.dim_IntList, 0, dim=[1], keepdim=True),
                 made(aten.sum.dim_IntList, self=0, keepdim=True, dim=[1])):  # fmt: skip
        assert argument(node, "dim") == [1]
        assert argument(node, "keepdim") is True
        assert argument(node, "dtype") is None
        assert first_argument(node) == 0
        assert leading_arguments(node, 3) == (0, [1], True)
        assert arguments(node) == {"self": 0, "dim": [1], "keepdim": True, "dtype": None}
        assert given_arguments(node) == {"self": 0, "dim": [1], "keepdim": True}
        assert in_order(node) == ((0, [1], True), {})
    assert argument(made(aten.softmax.int, 0, 1), "dtype") is None
    assert argument(made(aten.glu.default, 0), "dim") == -1
    assert argument(made(aten.conv2d.default, 0, 1), "stride") == [1, 1]


def test_what_an_operation_does_not_have_is_a_fault_of_the_asker() -> None:
    with pytest.raises(TypeError, match=r"aten\.relu\.default has no argument 'dim'"):
        argument(made(aten.relu.default, 0), "dim")
    with pytest.raises(TypeError, match="lacks 'other'"):
        argument(made(aten.mul.Tensor, 0), "other")
    with pytest.raises(TypeError, match="has no argument 'dim'"):
        set_argument(made(aten.relu.default, 0), "dim", 1)
    assert has_argument(aten.std.dim, "dim")
    assert not has_argument(aten.std.default, "dim")


def test_arguments_of_python_functions() -> None:
    def scaled(x: int, *rest: int, by: int = 2) -> int:
        return x * by + sum(rest)

    node = made(scaled, 1, 5, 7)
    assert (argument(node, "x"), argument(node, "by")) == (1, 2)
    assert given_arguments(node) == {"x": 1}
    assert in_order(node) == ((1, 5, 7), {})
    assert in_order(made(scaled, 1, 5, 7, by=3)) == ((1, 5, 7), {"by": 3})
    assert index_of(made(operator.getitem, node, 3)) == 3
    assert first_argument(made(torch.ops.higher_order.cond, 4)) == 4
    assert first_argument(made(aten.zeros.default)) is None


def test_an_argument_is_set_where_it_can_stand() -> None:
    node = made(aten.linear.default, 0, 1)
    set_argument(node, "bias", 2)
    assert (node.args, dict(node.kwargs)) == ((0, 1, 2), {})
    set_argument(node, "weight", 5)
    assert node.args == (0, 5, 2)
    node = made(aten.layer_norm.default, 0, [8], bias=None)
    set_argument(node, "bias", 3)
    assert (node.args, dict(node.kwargs)) == ((0, [8]), {"bias": 3})
    set_argument(node, "weight", 2)
    assert (node.args, dict(node.kwargs)) == ((0, [8], 2), {"bias": 3})
    node = made(aten.scaled_dot_product_attention.default, 0, 1, 2)
    set_argument(node, "enable_gqa", True)
    assert dict(node.kwargs) == {"enable_gqa": True}
    node = made(aten.linear.default, input=0, weight=1)
    set_argument(node, "input", 7)
    assert arguments(node) == {"input": 7, "weight": 1, "bias": None}


def test_gaps_are_filled_with_defaults() -> None:
    node = made(aten.layer_norm.default, 0, [8], eps=1e-3)
    assert in_order(node) == ((0, [8], None, None, 1e-3), {})
    node = made(aten._to_copy.default, self=0, dtype=torch.float16)
    assert in_order(node) == ((0,), {"dtype": torch.float16})
    node = made(aten.zeros.default, device="cpu", dtype=torch.float16, size=[2])
    assert in_order(node) == (([2],), {"dtype": torch.float16, "device": "cpu"})
    assert list(in_order(node)[1]) == ["dtype", "device"]
    assert put_in_order(node)
    assert not put_in_order(node)


def test_a_call_is_evaluated_however_it_is_written() -> None:
    x = torch.arange(6.0).reshape(2, 3)
    graph = Graph()
    read = graph.placeholder("x")
    for node in (graph.call_function(aten.pad.default, (read, [1, 0], "constant", 3.0)),
                 graph.call_function(aten.pad.default, (), {"pad": [1, 0], "value": 3.0,
                                                            "self": read})):  # fmt: skip
        padded = evaluate_call(node, lambda operand: {read: x}[operand])
        assert torch.equal(padded[:, 0], torch.full((2,), 3.0))
        zeros = call(node, lambda leaf: x if leaf is read else leaf, value=0)
        assert torch.equal(zeros, torch.nn.functional.pad(x, [1, 0]))
        change_arguments(node, lambda leaf: 4.0 if leaf == 3.0 else leaf)
        assert argument(node, "value") == 4.0
        assert argument(node, "self") is read


def test_families_call_their_arguments_as_is_said() -> None:
    assert all(has_argument(target, name) for target, name in FILLS.items())
    assert all(has_argument(target, "dim") for target in SPLITS)
    assert all(has_argument(target, "params") for target in RECURRENT)
    for name in ("input", "weight", "bias", "groups"):
        assert all(has_argument(target, name) for target in (*CONVOLUTIONS, *TRANSPOSED))
    assert all(has_argument(target, "self") for target in REARRANGED)
