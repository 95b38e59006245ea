"""The process in which published files are opened."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

import awqc.verify.fresh as fresh
from awqc.verify.fresh import FreshProcess
from tests.test_rooms import modules


@pytest.fixture
def process() -> FreshProcess:
    return FreshProcess()


def test_the_program_imports_nothing_of_awqc() -> None:
    tree = ast.parse(modules()["awqc.verify.fresh_child"].read_text())
    names = {
        alias.name.partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    } | {
        str(node.module).partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
    }
    assert names - sys.stdlib_module_names == {
        "torch", "numpy", "onnxruntime", "gguf", "transformers",
    }  # fmt: skip


def test_one_process_answers_many_jobs_and_is_started_again(process: FreshProcess) -> None:
    job = {"kind": "onnx", "path": "/nothing", "inputs": "", "outputs": "", "config": {}}
    process.warm(("numpy",))
    first = process.ask(job)
    assert first is not None
    assert "nothing" in first
    child = process._child
    assert process.ask(job) == first
    assert process._child is child
    assert child is not None
    assert child.process.stdin is not None
    child.process.stdin.close()
    assert child.process.wait() == 0  # as when it was idle for too long
    assert process.ask(job) == first
    process.end()
    assert not process._child


def test_awqc_in_the_process_is_a_failure(process: FreshProcess) -> None:
    assert process.ask({"imports": ["awqc"]}) == "awqc was imported (awqc)"
    process.end()


def test_a_process_that_crashes_or_hangs_is_a_failure(
    process: FreshProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "program.py"
    monkeypatch.setattr(fresh, "_PROGRAM", program)
    program.write_text("import os, sys; sys.stdin.readline(); os.abort()")
    said = process.ask({})
    assert said is not None
    assert said.startswith("its process ended with code -6")
    program.write_text("")
    assert process.ask({}) == "its process ends without an answer"
    monkeypatch.setattr(fresh, "PATIENCE", 0.2)
    program.write_text("import time; time.sleep(60)")
    assert process.ask({}) == "no answer in 0 seconds"


def test_an_interruption_ends_the_process(
    process: FreshProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    from awqc.machine.child import Child

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    process.warm(())
    child = process._child
    assert child is not None
    monkeypatch.setattr(Child, "answer", interrupted)
    with pytest.raises(KeyboardInterrupt):
        process.ask({})
    assert child.process.poll() is not None
    assert process._child is None
