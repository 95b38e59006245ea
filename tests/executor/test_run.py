"""The run owns data and memory: passes ask it."""

from __future__ import annotations

import ast
from pathlib import Path
from threading import get_ident

import pytest
import torch

from awqc.executor import run as module
from awqc.executor.run import NO_DATA, OFTEN, Run
from awqc.program import Program
from tests.elsewhere import ELSEWHERE

PASSES = Path(__file__).parents[2] / "awqc" / "passes"
OF_THE_RUN = {"give_back", "trim", "release", "forget", "parallel_map", "unchanged_maps"}


@pytest.mark.parametrize("path", sorted(PASSES.rglob("*.py")), ids=lambda path: path.name)
def test_a_pass_gives_no_memory_back_and_runs_no_program(path: Path) -> None:
    """Of the whole package ``passes``: no name of memory, and no call of a program's ``run``."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert not OF_THE_RUN & {alias.name for alias in node.names}, path
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = ast.unparse(node.func.value)
            runs = node.func.attr == "run" and owner in ("program", "rounded", "self._program")
            assert not runs, f"{path.name}:{node.lineno} runs {owner}"
            assert node.func.attr != "graph_module", f"{path.name}:{node.lineno}"


def test_work_comes_in_order_and_memory_is_given_back_in_between(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[str] = []
    monkeypatch.setattr(module, "trim", lambda: told.append("trim"))
    monkeypatch.setattr(module, "give_back", lambda: told.append("give back"))
    count = 2 * OFTEN + 1
    found: list[int] = []
    for value in NO_DATA.each(lambda number: number**2, range(count), "squares"):
        assert told.count("trim") == len(found), "not before the last result was used"
        found.append(value)
    assert found == [number**2 for number in range(count)]
    assert told.count("trim") == count
    assert told.count("give back") == 2


def test_what_feeds_a_device_is_one_thread_and_mapped_weights_stay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[str] = []
    monkeypatch.setattr(module, "give_back", lambda: told.append("give back"))
    run, items = Run(device=ELSEWHERE), range(2 * OFTEN)
    feeding = set(run.each(lambda _: get_ident(), items, "threads"))
    run.settle()
    assert feeding == {get_ident()}
    assert told == []
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        apart = set(run.each(lambda _: get_ident(), items, "threads", on_device=False))
    finally:
        torch.set_num_threads(threads)
    assert get_ident() not in apart


def test_the_reference_is_what_the_program_gives_now(program: Program) -> None:
    first = Run().referring_to(program)
    (output,) = first.reference
    assert output.equal(program.run(program.example)[0])
    name, value = next((n, v) for n, v in program.parameters().items() if v.is_floating_point())
    program.set_weight(name, value * 2)
    assert not first.referring_to(program).reference[0].equal(output)
