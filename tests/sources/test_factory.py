"""Factories in files, and what they may return."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from awqc.commands.compile import default_output
from awqc.errors import CaptureError, UsageError
from awqc.sources.factory import Factory
from awqc.sources.source import load_program, source_files

CODE = """
import torch
from torch import nn
from user_beside import WIDTH

class Net(nn.Sequential):
    def __init__(self, width=WIDTH):
        super().__init__(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 4))

def make():
    return Net(), (torch.randn(3, 8),)

def wrong():
    return Net(), None, 3
"""


@pytest.fixture(autouse=True)
def _in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    Path("code").mkdir()
    Path("code/user_net.py").write_text(CODE)
    Path("code/user_beside.py").write_text("WIDTH = 6\n")
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if "user_" in name:
            del sys.modules[name]


def refused(model: str, *parts: str, kind: type[Exception] = UsageError) -> None:
    with pytest.raises(kind) as caught:
        load_program(model)
    for part in parts:
        assert part in str(caught.value)


def test_a_file_is_imported_with_what_lies_beside_it() -> None:
    before = list(sys.path)
    program = load_program("code/user_net.py:make")
    assert program.name == "user_net"
    assert [str(spec) for spec in program.inputs] == ["input=float32[batch,8]"]
    assert program.files == (Path("code/user_net.py"),)
    assert load_program(str(Path("code/user_net.py:Net").absolute())).name == "user_net"
    assert sys.path == before


def test_a_file_does_not_stand_in_for_a_module_of_its_name() -> None:
    import json

    Path("json.py").write_text("from torch import nn\ndef make(): return nn.Linear(8, 4)\n")
    assert load_program("json.py:make").name == "json"
    assert sys.modules["json"] is json


def test_what_is_wrong_with_a_file_is_said() -> None:
    refused("code/absent.py:make", "there is no file", "absent.py")
    refused("code/user_net.py:absent", "the file has no 'absent'")
    refused("code/user_net.py:WIDTH", "is a int")
    refused(
        "code/user_net.py:wrong", "a int as the transform", "(module, example_inputs, transform)"
    )
    Path("code/user_bad.py").write_text("import user_nowhere")
    refused("code/user_bad.py:make", "user_nowhere", "import failed", kind=CaptureError)
    assert "user_bad" not in sys.modules
    Path("code/user_exits.py").write_text("def f(:\n")
    refused("code/user_exits.py:make", "SyntaxError", kind=CaptureError)


def test_names() -> None:
    assert Factory.named("code/user_net.py") is None, "a file is no factory"
    assert Factory.named("net") is None
    named = Factory.named("a.b:make")
    assert named is not None
    assert (named.name, named.path) == ("b", None)
    assert str(default_output("code/user_net.py:make")) == "user_net-awq"
    assert str(default_output("a.b:make")) == "b-awq"
    assert source_files("code/user_net.py:make", None, "absent") == (Path("code/user_net.py"),)


def test_a_class_gets_those_arguments_that_it_takes() -> None:
    factory = Factory.named("code/user_net.py:Net")
    assert factory is not None
    made = factory.call({"width": 5, "learning_rate": 0.1})
    assert isinstance(made.module, nn.Sequential)
    assert made.module[0].weight.shape == torch.Size([5, 8])
