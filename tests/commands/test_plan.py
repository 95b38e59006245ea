"""``awqc plan``: what a compile would need, and whether that is there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from awqc.cli import run
from tests.commands.test_cli import fill

Capture = pytest.CaptureFixture[str]
ASKED = "model.pt", "--calib", "data.npz", "--group-size", "16"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(fill(tmp_path))
    return tmp_path


def test_it_tells_and_writes_nothing(folder: Path, capsys: Capture) -> None:
    assert run(["plan", *ASKED]) == 0
    out, err = capsys.readouterr()
    assert "weights in 1 segment" in out
    assert "estimated:" in out
    assert err == ""
    assert {path.name for path in folder.iterdir()} == {"model.pt", "data.npz"}


def test_numbers_are_plain_in_json(capsys: Capture) -> None:
    assert run(["plan", *ASKED, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["fits"] is True
    assert 0 < found["peak"] < found["limit"]


def test_it_takes_what_a_compile_takes(capsys: Capture) -> None:
    assert run(["plan", *ASKED, "--formats", "onnx,ort", "--dtype", "float16"]) == 0
    assert "estimated:" in capsys.readouterr().out


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_what_does_not_fit_has_a_code_of_its_own(more: list[str], capsys: Capture) -> None:
    assert run(["plan", *ASKED, "--memory", "1MB", *more]) == 1
    out = capsys.readouterr().out
    if more:
        found = json.loads(out)
        assert (found["fits"], found["limit"], found["bounded_by"]) == (False, 10**6, "--memory")
    else:
        assert "of memory are needed at least" in " ".join(out.split())
        assert "--memory leaves 1 MB" in " ".join(out.split())


def test_a_compile_that_does_not_fit_is_not_begun(folder: Path, capsys: Capture) -> None:
    assert run(["compile", *ASKED, "--memory", "1MB", "-o", "out"]) == 2
    assert "of memory are needed at least" in capsys.readouterr().err
    assert {path.name for path in folder.iterdir()} == {"model.pt", "data.npz"}


def test_a_size_that_is_none(capsys: Capture) -> None:
    assert run(["plan", *ASKED, "--memory", "much"]) == 2
    assert "--memory: size 'much'" in capsys.readouterr().err
