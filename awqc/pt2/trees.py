"""Read how arguments and outputs nest, without importing what the text names.

torch writes a tree as ``[1, {"type": ..., "context": ..., "children_spec": [...]}]``, and reads
it with functions that types have registered; some import a module that the context names.
"""

from __future__ import annotations

import json
from typing import Any

from awqc.pt2.failures import DamagedError, NotAllowedError
from awqc.pt2.texts import check_text, is_name, is_words

_LISTS = frozenset(
    {"builtins.tuple", "builtins.list", "torch.Size"}
    | {"torch.fx.immutable_collections.immutable_list"}
)
_DICTS = frozenset(
    {"builtins.dict", "collections.OrderedDict"} | {"torch.fx.immutable_collections.immutable_dict"}
)
_FIELDS = {"type", "context", "children_spec"}


def read_tree(text: str, *, arguments: bool) -> str:
    """The tree that ``text`` holds, written anew.

    ``arguments``: it is the pair of positional and keyword arguments of a call, whose keywords
    become names in Python source.

    Raises:
        NotAllowedError: it has a type that is no plain container, or other text in it.
        DamagedError: it is no tree.
    """
    try:
        protocol, tree = json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise DamagedError(f"{text[:60]!r} is no tree of arguments") from error
    if protocol != 1 or type(protocol) is not int:
        raise DamagedError(f"a tree of protocol {protocol!r}, 1 is needed")
    made = _node(tree)
    if arguments:
        _check_call(made)
    return json.dumps([protocol, made])


def _node(tree: Any) -> dict[str, Any]:
    if not isinstance(tree, dict) or set(tree) != _FIELDS:
        raise DamagedError("a node of a tree has other fields than it should")
    kind, context, children = tree["type"], tree["context"], tree["children_spec"]
    if not isinstance(children, list):
        raise DamagedError("the children of a tree are no list")
    if kind is None:
        if context is not None or children:
            raise DamagedError("a leaf of a tree has children")
    elif kind in _DICTS:
        context = json.dumps(_keys(context, len(children)))
    elif kind in _LISTS and context == "null":
        pass
    else:
        raise NotAllowedError(f"arguments or outputs of the type {str(kind)[:80]!r}")
    return {"type": kind, "context": context, "children_spec": [_node(c) for c in children]}


def _keys(context: Any, count: int) -> list[Any]:
    try:
        keys = json.loads(context)
    except (ValueError, TypeError, RecursionError) as error:
        raise DamagedError("the keys of a dict in a tree cannot be read") from error
    if not isinstance(keys, list) or len(keys) != count:
        raise DamagedError("a dict in a tree has other keys than children")
    for key in keys:
        if isinstance(key, str):
            check_text(key, is_words, "a key of a dict")
        elif type(key) is not int:
            raise NotAllowedError(f"a key of a dict that is no text or number: {str(key)[:60]}")
    return keys


def _check_call(tree: dict[str, Any]) -> None:
    kinds = [tree["type"], *(child["type"] for child in tree["children_spec"])]
    if kinds != ["builtins.tuple", "builtins.tuple", "builtins.dict"]:
        raise DamagedError("a call is no pair of positional and keyword arguments")
    for key in json.loads(tree["children_spec"][1]["context"]):
        if not isinstance(key, str):
            raise DamagedError("a keyword argument has no name")
        check_text(key, is_name, "the name of an argument")
