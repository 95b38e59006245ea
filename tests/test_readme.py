"""README.md: its snippets run, its commands work, and what it names exists."""

from __future__ import annotations

import ast
import inspect
import re
import runpy
import shlex
import subprocess
import sys
from contextlib import chdir
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import torch

import awqc
from awqc.cli import COMMANDS, cli, run
from awqc.export.onnx_codes import MIN_OPSET
from awqc.options.compile_options import DECLARED, parse_options
from awqc.runtimes.session_settings import ACCURACY_LEVEL
from awqc.sources.source import load_program
from tests.tiny import inputs, model

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
WITHOUT_TORCH = """
import sys
sys.modules["torch"] = sys.modules["awqc"] = None  # importing them is an ImportError
exec(compile(open(sys.argv[1]).read(), sys.argv[1], "exec"))
assert outputs[0].shape == (1, 10) and outputs[0].dtype == np.float32
"""


def blocks(language: str) -> list[str]:
    """The fenced blocks of README that are marked with ``language``."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    return [text for name, text in found if name == language]


def commands() -> list[list[str]]:
    """The command lines ``awqc …`` of README, in blocks and in the text."""
    lines = [part for block in blocks("") for line in block.splitlines()
             for part in line.split("&&")]  # fmt: skip
    lines += re.findall(r"`(awqc [^`]+)`", README)
    return [shlex.split(line)[1:] for line in lines if line.strip().startswith("awqc ")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the Python snippet ran; it wrote ``out``."""
    folder = tmp_path_factory.mktemp("readme")
    use, deploy = blocks("python")
    (folder / "use.py").write_text(use)
    (folder / "deploy.py").write_text(deploy)
    with chdir(folder):
        runpy.run_path("use.py", run_name="__main__")
    return folder


def _python(folder: Path, *args: str) -> str:
    done = subprocess.run(
        [sys.executable, *args], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_python_snippet_writes_the_listed_files(folder: Path) -> None:
    listed = re.findall(r"^\| (`.+`) \| ", README, re.MULTILINE)
    names = {name for row in listed for name in re.findall(r"`([^`]+)`", row)}
    written = {path.name for path in (folder / "out").iterdir()}
    assert written <= names


def test_the_other_calls_from_python_are_calls_of_the_public_functions() -> None:
    calls = [
        ast.parse(line, mode="eval").body
        for block in blocks("")
        for line in block.splitlines()
        if line.startswith("awqc.")
    ]
    assert len(calls) == 3
    for call in calls:
        assert isinstance(call, ast.Call)
        assert isinstance(call.func, ast.Attribute)
        values = [ast.literal_eval(value) for value in call.args]
        named = {str(key.arg): ast.literal_eval(key.value) for key in call.keywords}
        function = getattr(awqc, call.func.attr)
        inspect.signature(function).bind(*values, **named)
        parse_options(**{name: named[name] for name in named if name in DECLARED})


def test_the_deployment_snippet_needs_onnxruntime_alone(folder: Path) -> None:
    shown = _python(folder, "-c", WITHOUT_TORCH, "deploy.py")
    assert "CPUExecutionProvider" in shown
    assert re.search(r'\{"input"', (folder / "deploy.py").read_text())


def test_the_archive_is_loaded_as_the_table_says(folder: Path) -> None:
    found = re.search(r'`(torch\.export\.load\("model\.pt2"\)\.module\(\))`', README)
    assert found
    with chdir(folder / "out"):
        loaded = eval(found[1], {"torch": torch})
    assert loaded(torch.randn(5, 64)).shape == (5, 10)


def test_the_compile_command_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    batch = torch.export.Dim("batch")
    example = (inputs("mlp"),)
    exported = torch.export.export(model("mlp"), example, dynamic_shapes=({0: batch},))
    torch.export.save(exported, tmp_path / "model.pt2")
    arrays: dict[str, Any] = {_input(tmp_path): inputs("mlp", 40).numpy()}
    np.savez(tmp_path / "data.npz", **arrays)
    line = next(args for args in commands() if args[0] == "compile")
    assert run(line) == 0
    assert "model-awq" in capsys.readouterr().out
    assert (tmp_path / "model-awq" / "model.onnx").is_file()


def _input(folder: Path) -> str:
    return load_program(folder / "model.pt2").inputs[0].name


def test_every_command_parses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "smol").mkdir()
    (tmp_path / "DIR").mkdir()
    found = commands()
    assert {line[0] for line in found} == set(COMMANDS)
    alone = [["passes"], ["demo"]]
    for line in (line for line in found if len(line) > 1 or line in alone):
        command = cli.get_command(click.Context(cli), line[0])
        assert command is not None
        command.make_context(line[0], list(line[1:]))


def test_every_option_exists() -> None:
    known = {"--help"}
    for name in COMMANDS:
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        known.update(flag for param in command.params for flag in param.opts)
    text = README.replace("pip install --", "").replace("torchrun --", "")
    assert set(re.findall(r"(?<![\w-])--[a-z][\w-]*", text)) <= known


def test_what_is_named_exists() -> None:
    links = re.findall(r"\]\(([^)]+)\)", README)
    assert links
    assert all((ROOT / link).exists() for link in links if "://" not in link)
    assert (ROOT / ".ci" / "run").is_file()
    assert ACCURACY_LEVEL in README
    assert f"opset {MIN_OPSET}" in README
