"""What the command line says of awqc's own faults: that they are, and what a report needs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from awqc.cli import run
from awqc.commands import explain
from awqc.errors import AwqcError
from tests.tiny import mlp


def broken(*args: object, **kwargs: object) -> None:
    raise IndexError("list index out of range")


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model, for whose passes ``explain`` has nothing but a fault."""
    path = tmp_path / "model.pt"
    torch.save(mlp(), path)
    monkeypatch.setattr(explain.command, "callback", broken)
    return path


@pytest.mark.fallbacks
def test_a_fault_is_shown_as_one(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["explain", str(model)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback (most recent call last)" in err
    assert "in broken" in err
    assert "IndexError: list index out of range" in err
    assert "this is a bug in awqc, not in what you gave it. Please report it" in err
    assert f"awqc explain {model}" in err
    assert f"torch {torch.__version__.partition('+')[0]}" in err


def test_a_fault_comes_out_where_no_fallback_is_to_be(model: Path) -> None:
    with pytest.raises(IndexError, match="out of range"):
        run(["explain", str(model)])


@pytest.mark.fallbacks
def test_a_users_mistake_is_none(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AwqcError("model.pt: is empty")

    monkeypatch.setattr(explain.command, "callback", refuse)
    assert run(["explain", str(model)]) == 1
    assert capsys.readouterr().err == "awqc: error: model.pt: is empty\n"


@pytest.mark.parametrize("arguments", [["explain", "mo\0del.pt"], ["passes", "--help\0"], ["\0"]])
def test_a_zero_character_is_no_traceback(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    assert "zero character" in capsys.readouterr().err
