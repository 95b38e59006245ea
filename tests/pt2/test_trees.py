"""Trees of arguments: plain containers pass as they are, all else is refused."""

from __future__ import annotations

import json
from collections import OrderedDict
from typing import Any

import pytest
from torch.fx.immutable_collections import immutable_dict, immutable_list
from torch.utils import _pytree as pytree

from awqc.pt2.failures import DamagedError, NotAllowedError
from awqc.pt2.trees import read_tree

LEAF: dict[str, Any] = {"type": None, "context": None, "children_spec": []}


def node(kind: Any, context: Any, *children: Any) -> dict[str, Any]:
    return {"type": kind, "context": context, "children_spec": list(children)}


def read(tree: Any, protocol: Any = 1, arguments: bool = False) -> str:
    return read_tree(json.dumps([protocol, tree]), arguments=arguments)


@pytest.mark.parametrize(
    "tree",
    [
        1,
        (1, [2, {"a": 3, "b-c.d": (4, None)}], ()),
        OrderedDict(x=1, y={3: 2}),
        immutable_list([1, immutable_dict(a=2)]),
    ],
)
def test_plain_containers_are_read_as_themselves(tree: Any) -> None:
    spec = pytree.tree_structure(tree)
    assert pytree.treespec_loads(read_tree(pytree.treespec_dumps(spec), arguments=False)) == spec


def test_a_call_is_read_as_itself() -> None:
    spec = pytree.tree_structure(((1, {"a": 2}), {"mask": 3, "input": 4}))
    assert pytree.treespec_loads(read_tree(pytree.treespec_dumps(spec), arguments=True)) == spec


@pytest.mark.parametrize(
    "tree",
    [
        node("collections.defaultdict", {"default_factory_module": "os"}),
        node("collections.namedtuple", "os.system"),
        node("collections.deque", "null"),
        node("torch._higher_order_ops.flat_apply._ConstantFunction", "null"),
        node("NO_SERIALIZED_TYPE_NAME_FOUND", "null"),
        node("os.system", "null"),
        node("builtins.tuple", '{"__enum__": true, "fqn": "os:x", "name": "y"}'),
        node("builtins.dict", '[{"__enum__": true, "fqn": "os:x", "name": "y"}]', LEAF),
        node("builtins.dict", '[["nested"]]', LEAF),
        node("builtins.dict", '["it\'s"]', LEAF),
        node("builtins.dict", '["a\\nb"]', LEAF),
    ],
)
def test_other_types_and_keys_are_refused(tree: Any) -> None:
    with pytest.raises(NotAllowedError):
        read(tree)


@pytest.mark.parametrize("key", ["a b", "a=1", "x):\n exec", "lambda", "__class__", "torch"])
def test_a_keyword_is_a_name(key: str) -> None:
    tree = pytree.tree_structure(((), {key: 1}))
    with pytest.raises(NotAllowedError):
        read_tree(pytree.treespec_dumps(tree), arguments=True)


@pytest.mark.parametrize(
    "text",
    [
        "", "null", "[1]", "[2, {}]", "[true, {}]", "[1, 3]", '[1, {"type": null}]', "[" * 99999,
        json.dumps([1, node(None, None, LEAF)]), json.dumps([1, node("builtins.dict", "[]", LEAF)]),
        json.dumps([1, node("builtins.dict", None)]), json.dumps([1, {**LEAF, "more": 1}]),
    ],
)  # fmt: skip
def test_what_is_no_tree_is_refused(text: str) -> None:
    with pytest.raises(DamagedError):
        read_tree(text, arguments=False)


def test_arguments_are_positional_and_keyword() -> None:
    for tree in (LEAF, node("builtins.tuple", "null", LEAF, LEAF)):
        with pytest.raises(DamagedError, match="positional and keyword"):
            read(tree, arguments=True)
