"""Messages name options in the words of who called: keywords in Python, flags on the command line.

What holds for every message is read from the syntax trees: no text of the package but the command
line's own speaks of flags, and every option that a message names is one.
"""

from __future__ import annotations

import ast
import inspect
import pickle
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import click
import pytest
import torch

import awqc
from awqc.cli import COMMANDS, cli, run
from awqc.errors import AwqcError, Note, UsageError, VerificationError, spelled, worded
from awqc.options.compile_options import on_command_line
from tests.tiny import inputs, model

PACKAGE = Path(awqc.__file__).parent
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
SPEAKS_FLAGS = ("commands/", "cli.py", "options/declare.py", "options/compile_options.py")
"""The command line, and the declarations that its flags are made of."""

PRINTED_COMMANDS = "demo/show.py"
"""The demo prints commands to try next."""


def test_a_message_is_worded_by_who_reads_it() -> None:
    text = f"ask for {spelled('dtype', 'float32')}, more {spelled('num_samples')}, or " + spelled(
        "partial", True, python="awqc.compile_partial"
    )
    error = UsageError(text)
    assert str(error) == "ask for dtype='float32', more num_samples, or awqc.compile_partial"
    assert worded(error.text, on_command_line) == (
        "ask for --dtype float32, more --num-samples, or --partial"
    )
    assert str(Note(text)) == str(error)
    assert repr(error) == f"UsageError({str(error)!r})"


def test_a_message_that_quotes_another_keeps_its_options() -> None:
    inner = UsageError(spelled("inputs", ["x=float32[b]", "y=int64[b]"]))
    outer = pickle.loads(pickle.dumps(VerificationError(f"{inner.text}. Nothing was written")))
    assert str(outer) == "inputs=['x=float32[b]', 'y=int64[b]']. Nothing was written"
    assert worded(outer.text, on_command_line) == (
        "--input 'x=float32[b]' --input 'y=int64[b]'. Nothing was written"
    )


@cache
def trees() -> dict[str, ast.Module]:
    return {
        path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text())
        for path in PACKAGE.rglob("*.py")
    }


def texts(tree: ast.Module) -> Iterator[str]:
    """String constants that are no docstrings."""
    docs = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node.value


def test_no_message_of_the_package_speaks_of_flags() -> None:
    found = {
        name: flags
        for name, tree in trees().items()
        if not name.startswith(SPEAKS_FLAGS) and name != PRINTED_COMMANDS
        for flags in [[flag for text in texts(tree) for flag in FLAG.findall(text)]]
        if flags
    }
    assert found == {}


def options_of_commands() -> set[str]:
    names = {"calib", "output_dir"}
    for name in COMMANDS:
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        names |= {str(param.name) for param in command.params}
    return names


def test_each_option_that_a_message_names_exists() -> None:
    named = {
        (name, node.args[0].value)
        for name, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "spelled"
        and isinstance(node.args[0], ast.Constant)
    }
    known = options_of_commands()
    assert len(named) > 30
    assert {(name, option) for name, option in named if option not in known} == set()


def test_no_error_is_quoted_by_its_own_wording() -> None:
    """Of an error of awqc, a message quotes ``text``: ``{error}`` would word it for Python."""
    own = {name for name, value in vars(awqc.errors).items() if inspect.isclass(value)
           and issubclass(value, AwqcError)}  # fmt: skip
    quoted = []
    for name, tree in trees().items():
        for handler in (node for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler)):
            caught = {node.id for node in ast.walk(handler.type or handler)
                      if isinstance(node, ast.Name)}  # fmt: skip
            if not handler.name or not caught & own:
                continue
            quoted += [
                f"{name}:{node.lineno}"
                for part in handler.body
                for node in ast.walk(part)
                if isinstance(node, ast.FormattedValue)
                and isinstance(node.value, ast.Name)
                and node.value.id == handler.name
            ]
    assert quoted == []


def test_the_same_fault_from_python_and_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(model("mlp"), "model.pt")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("")
    (tmp_path / "text.txt").write_text("words")
    faults: dict[str, tuple[dict[str, Any], type[AwqcError]]] = {
        "max_loss": ({"max_loss": 1e-9, "formats": "pt2", "effort": "fast"}, VerificationError),
        "output_dir": ({"output_dir": "mine"}, UsageError),
        "seq_len": ({"seq_len": 8}, UsageError),
        "device": ({"device": "abacus"}, UsageError),
        "inputs": ({"inputs": ["x"]}, UsageError),
        "runtime_scales": ({"runtime_scales": "always", "formats": "awq"}, UsageError),
    }
    for name, (options, kind) in faults.items():
        with pytest.raises(kind) as caught:
            awqc.compile("model.pt", **options)
        said = str(caught.value)
        assert name in said
        assert not FLAG.search(said), said
        flags = [on_command_line(key, value) for key, value in options.items()]
        assert run(["compile", "model.pt", *" ".join(flags).split()]) == kind.exit_code
        shown = capsys.readouterr().err
        assert on_command_line(name, None) in shown
        assert name not in shown or name == "device", shown


def test_notes_are_worded_for_python_in_the_report_and_as_flags_on_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(model("mlp"), "model.pt")
    notes: list[Note] = []
    quick: dict[str, Any] = {"formats": ("pt2",), "effort": "fast", "num_samples": 4}
    compiled = awqc.compile(model("mlp"), (inputs("mlp"),), notify=notes.append, **quick)
    (note,) = (note for note in notes if "random inputs were made up" in str(note))
    assert note.warning
    assert str(note).endswith("give real data with calib")
    assert compiled.report["calibration"]["notes"] == [str(note)]
    line = "compile model.pt --formats pt2 --effort fast --num-samples 4 -o out"
    assert run(line.split()) == 0
    assert "with --calib" in " ".join(capsys.readouterr().err.split())
