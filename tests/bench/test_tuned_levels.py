"""Products become exact where that is faster; the folder stays one that awqc wrote."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
import torch

import awqc
from awqc.artifacts.manifest import changed, read_manifest
from awqc.bench.tuned_levels import tune
from awqc.cli import run
from awqc.errors import UsageError
from awqc.runtimes.session_file import read_levels
from tests.tiny import inputs, model

WIDTH = 40
"""Rows of a weight from which on the clock of these tests has exact products as the faster ones."""


def clock(rows: int, columns: int, bits: int, block: int, level: int, tokens: int) -> float:
    return tokens * (1.0 if level == 4 else 0.5 if rows > WIDTH else 2.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    out = tmp_path / "out"
    awqc.compile(
        model("mlp"), (inputs("mlp"),), formats=("ort", "onnx"), provider="cpu", output_dir=out
    )
    return out


def test_the_faster_products_become_exact_and_no_others(folder: Path) -> None:
    path = folder / "ort" / "model.onnx"
    x = {"input": inputs("mlp")}
    nodes = {node.name: node for node in onnx.load(path, load_external_data=False).graph.node}
    (found,) = tune(folder, seconds=clock)
    levels = read_levels(onnx.load(path, load_external_data=False))
    for name, level in levels.items():
        wide = next(each.i for each in nodes[name].attribute if each.name == "N") > WIDTH
        assert level == (1 if wide else 4)
    assert 0 < found.exact < found.products == len(levels)
    assert found.after == found.before - 0.5 * found.exact
    files = read_manifest(folder)
    assert files is not None
    assert changed(folder, files) == []
    exact = awqc.load(folder / "model.onnx", "cpu", 1).run(x)[0]
    assert torch.allclose(awqc.load(folder, "cpu").run(x)[0], exact, rtol=0.1, atol=0.05)
    (again,) = tune(folder, seconds=clock)
    assert again.exact == 0


def test_a_folder_without_such_a_model_and_one_that_was_changed_are_refused(
    folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=r"has no model in ort/; compile with formats='onnx,ort'"):
        tune(tmp_path)
    (folder / "report.json").write_text("{}")
    with pytest.raises(UsageError, match=r"report\.json is not what awqc wrote"):
        tune(folder)


def test_on_the_command_line_by_the_real_clock(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["tune", str(folder), "--tokens", "3", "--json"]) == 0
    (made,) = json.loads(capsys.readouterr().out)
    assert made["model"] == "model.onnx"
    assert 0 < made["after"] <= made["before"]
