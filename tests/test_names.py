"""Names that a stranger reads without asking: one word for one thing, over all rooms.

What stands under one name in two rooms is listed here with its reason; the lists can be read as
the exceptions that there are, and a name that stands once only must leave them.
"""

from __future__ import annotations

import ast
from functools import cache

from tests.test_rooms import modules, room_of

DEFINITIONS: dict[str, str] = {
    "main": "where a program begins: the command's, and that of a process of its own",
}
"""Functions and classes that rightly stand under one name in several rooms."""
MODULES: dict[str, str] = {
    "base": "what the other files of its folder are: passes, runtimes",
    "norms": "the family of operations; each folder of families has a file for it",
    "products": "the family of operations; each folder of families has a file for it",
    "exported": "torch.export's ExportedProgram: read by capture, written by export",
    "session_file": "session.json: read by runtimes, written by export",
}
"""Modules that rightly stand under one name in several rooms."""
UNCOUNTED_ROOMS = ("commands",)
"""A file there has the name of its command, which is that of what it runs."""


def is_rule(node: ast.FunctionDef) -> bool:
    """Whether ``node`` is the rule of an operation, which has the operation's name."""
    calls = [each.func for each in node.decorator_list if isinstance(each, ast.Call)]
    return any(isinstance(call, ast.Name) and call.id == "rule" for call in calls)


def public_names(source: str) -> set[str]:
    """Public functions and classes at the top of a module."""
    return {
        node.name
        for node in ast.parse(source).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
        and not (isinstance(node, ast.FunctionDef) and is_rule(node))
    }


@cache
def rooms_by_name() -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    """Rooms in which each definition stands, and those in which each module does."""
    definitions: dict[str, set[str]] = {}
    files: dict[str, set[str]] = {}
    for module, path in modules().items():
        room = room_of(module)
        if room in UNCOUNTED_ROOMS:
            continue
        if path.name != "__init__.py":
            files.setdefault(path.stem, set()).add(room)
        for name in public_names(path.read_text()):
            definitions.setdefault(name, set()).add(room)
    return definitions, files


def repeated(found: dict[str, set[str]]) -> dict[str, list[str]]:
    return {name: sorted(rooms) for name, rooms in found.items() if len(rooms) > 1}


def test_a_name_stands_in_one_room() -> None:
    definitions, files = rooms_by_name()
    unknown = repeated(definitions).keys() - DEFINITIONS.keys()
    assert {name: definitions[name] for name in unknown} == {}
    unknown = repeated(files).keys() - MODULES.keys()
    assert {name: files[name] for name in unknown} == {}


def test_the_lists_hold_nothing_that_stands_once() -> None:
    definitions, files = map(repeated, rooms_by_name())
    assert DEFINITIONS.keys() - definitions.keys() == set()
    assert MODULES.keys() - files.keys() == set()


def test_what_counts_as_a_name() -> None:
    source = (
        "@rule(aten.relu)\ndef relu(): ...\n@cache\ndef found(): ...\ndef _own(): ...\n"
        "class Kept:\n    def inside(self): ...\nasync def waits(): ...\n"
    )
    assert public_names(source) == {"found", "Kept", "waits"}
