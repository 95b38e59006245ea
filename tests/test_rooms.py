"""The plan of the house: which room may use which, read from the syntax trees.

A room is a folder of ``awqc/``, or a file that stands beside the folders. Imports inside functions
and for type checkers count. A room that needs another one is a change of the plan: think first.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "awqc"
MOST_FILES_AT_THE_TOP = 12

EVERYTHING = "everything"
MAY_USE: dict[str, str] = {
    "errors": "",
    "kv_cache": "",
    "machine": "errors",
    "numerics": "errors machine",
    "graph": "",
    "program": "errors findings graph numerics",
    "calling": "graph program",
    "artifacts": "errors graph numerics program pt2",
    "channels": "graph machine program",
    "probes": "graph program",
    "weights": "errors executor findings graph machine numerics program",
    "passes": "artifacts channels errors executor findings graph machine numerics program weights",
    "recording": "calling errors numerics",
    "capture": "artifacts calling errors graph kv_cache machine probes program pt2 recording",
    "huggingface": "artifacts bundle capture errors findings graph kv_cache machine program "
    "recording",
    "sources": "artifacts capture data errors huggingface machine program",
    "data": "artifacts calling errors graph huggingface kv_cache machine program",
    "runtimes": "artifacts calling capture errors graph kv_cache machine numerics program",
    "targets": "",
    "fusion": "kv_cache numerics runtimes targets",
    "export": "artifacts calling errors findings fusion graph huggingface kv_cache machine "
    "numerics program runtimes targets weights",
    "verify": "artifacts capture data errors executor export findings graph huggingface kv_cache "
    "machine numerics probes program runtimes sources",
    "report": "artifacts errors findings graph machine program verify",
    "bench": "artifacts errors export kv_cache machine report running runtimes sources",
    "options": "artifacts errors export findings numerics passes runtimes targets",
    "stages": "artifacts capture data errors export graph kv_cache machine numerics options passes "
    "program runtimes sources targets verify weights",
    "compiler": "artifacts calling capture data errors executor export machine options passes "
    "program report sources stages targets verify",
    "partial": "artifacts capture compiler data errors machine numerics options passes recording "
    "sources stages verify",
    "demo": "artifacts capture compiler data errors graph machine numerics passes program "
    "report runtimes",
    "commands": EVERYTHING,
    "cli": "artifacts errors machine options",
    "__main__": "cli",
    "__init__": "compiler errors front_door partial runtimes whole",
    "pt2": "",
    "findings": "graph numerics",
    "executor": "findings graph machine program",
    "bundle": "errors program",
    "whole": "artifacts bench bundle capture compiler data errors export huggingface kv_cache "
    "machine numerics options passes program recording runtimes sources stages verify",
    "text": "data",
    "front_door": "artifacts capture compiler data errors huggingface machine options passes "
    "program sources stages whole",
    "running": "artifacts data errors huggingface machine program recording runtimes sources "
    "verify",
}


def room_of(module: str) -> str:
    """The room of ``awqc.weights.tuning.graph`` is ``weights``; of ``awqc`` itself ``__init__``."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


@cache
def modules() -> dict[str, Path]:
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts).removesuffix(".__init__")] = path
    return found


@cache
def uses() -> dict[str, dict[str, list[str]]]:
    """For each room the rooms that it imports, with the lines that do."""
    found: dict[str, dict[str, list[str]]] = {room_of(name): {} for name in modules()}
    for name, path in modules().items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}: imports are absolute"
                whole = [f"{node.module}.{alias.name}" for alias in node.names]
                imported = [each if each in modules() else str(node.module) for each in whole]
            elif isinstance(node, ast.Import):
                imported = [alias.name for alias in node.names]
            else:
                continue
            for target in imported:
                if target.split(".")[0] == "awqc" and room_of(target) != room_of(name):
                    line = f"{path.name}:{node.lineno} imports {target}"
                    found[room_of(name)].setdefault(room_of(target), []).append(line)
    return found


def test_the_plan_names_every_room() -> None:
    assert set(MAY_USE) == set(uses())
    assert len(list(PACKAGE.glob("*.py"))) <= MOST_FILES_AT_THE_TOP


@pytest.mark.parametrize("room", list(MAY_USE))
def test_a_room_uses_only_what_the_plan_allows(room: str) -> None:
    if MAY_USE[room] == EVERYTHING:
        return
    allowed = set(MAY_USE[room].split())
    assert {other: lines for other, lines in uses()[room].items() if other not in allowed} == {}


def test_the_plan_allows_nothing_that_no_room_needs() -> None:
    spare = {
        room: sorted(set(allowed.split()) - set(uses()[room]))
        for room, allowed in MAY_USE.items()
        if allowed != EVERYTHING
    }
    assert {room: others for room, others in spare.items() if others} == {}


def test_no_room_stands_in_a_circle() -> None:
    order: list[str] = []
    left = {room: set(others) for room, others in uses().items()}
    while left:
        ground = sorted(room for room, others in left.items() if others <= set(order))
        assert ground, f"a circle among {sorted(left)}"
        order += ground
        left = {room: others for room, others in left.items() if room not in ground}


def test_the_links_at_the_top_show_the_passes_and_the_exporters() -> None:
    for link in ("passes", "export"):
        assert (PACKAGE.parent / link).resolve() == PACKAGE / link
