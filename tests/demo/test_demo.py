"""``awqc demo``, run as a user runs it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from awqc.cli import run
from awqc.demo.data import load_task
from awqc.demo.walk import parse_dims
from awqc.errors import UsageError
from tests.commands.test_cli import awqc

FLOAT_POINTS = 0.01


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of the demonstration with little training."""
    path = tmp_path_factory.mktemp("demo") / "out"
    done = awqc("demo", "--epochs", "12", "-o", path, cwd=path.parent)
    assert done.returncode == 0, done.stderr
    (path / "stdout.txt").write_text(done.stdout)
    return path


@pytest.fixture(scope="module")
def report(folder: Path) -> dict[str, Any]:
    value = json.loads((folder / "report.json").read_text())
    assert isinstance(value, dict)
    return value


def at(report: dict[str, Any], bits: int) -> dict[str, Any]:
    return next(entry for entry in report["compiles"] if entry["bits"] == bits)


def test_three_of_four_sites_fold(report: dict[str, Any]) -> None:
    for entry in report["compiles"]:
        status = [site["status"] for site in entry["sites"]]
        assert status[1:] == ["folded"] * 3
        assert status[0] in ("runtime", "refused")
        assert "model's own input" in entry["sites"][0]["reason"]
        assert [site["carriers"] for site in entry["sites"][1:]] == [
            ["fc1.weight"], ["fc2.weight"], ["fc3.weight"],
        ]  # fmt: skip


def test_no_site_is_worse_than_rounding_to_nearest(report: dict[str, Any]) -> None:
    for entry in report["compiles"]:
        for site in entry["sites"]:
            assert site["loss"] <= site["loss_nearest"]


def test_accuracy_stays_within_a_point_of_float(report: dict[str, Any]) -> None:
    before = report["float"]["accuracy"]
    assert before > 0.95
    for entry in report["compiles"]:
        for where in ("torch", "onnxruntime"):
            assert entry["awq"]["accuracy"][where] >= before - FLOAT_POINTS


def test_the_search_lowers_the_loss_of_the_layers(report: dict[str, Any]) -> None:
    """The output's error is no such promise: the layers' errors may add up either way."""
    for entry in report["compiles"]:
        nearest, loss = (
            sum(site[key] for site in entry["sites"]) for key in ("loss_nearest", "loss")
        )
        assert loss < 0.9 * nearest


def test_sizes_count_codes_scales_and_zero_points(report: dict[str, Any]) -> None:
    assert 7 < at(report, 4)["awq"]["size"]["ratio"] < 8
    assert 3.5 < at(report, 8)["awq"]["size"]["ratio"] < 4


def test_restored_weights_are_near_the_original(report: dict[str, Any]) -> None:
    for weight, quantized in zip(report["weights"], at(report, 8)["quantized"], strict=True):
        codes = np.array(quantized["codes"])
        assert codes.min() >= 0
        assert codes.max() <= 255
        # A weight that reads a channel that is never loud may be off; most are not.
        off = np.abs(np.array(weight["excerpt"]) - np.array(quantized["restored"]))
        assert np.median(off) < 0.02 * (weight["max"] - weight["min"])


def test_what_is_printed(folder: Path, report: dict[str, Any]) -> None:
    printed = (folder / "stdout.txt").read_text()
    for number, title in enumerate(
        ("Original weights", "Activations", "Scale search", "Quantized weights", "Error of each",
         "Outputs before and after", "Compared"), start=1,
    ):  # fmt: skip
        assert f"{number}. {title}" in printed
    assert f"{report['float']['accuracy']:.2%}" in printed
    for weight in report["weights"]:
        assert f"{weight['excerpt'][0][0]:.4f}" in printed
    assert max(map(len, printed.splitlines()[:-6])) <= 80


def test_the_written_model_is_as_accurate_as_reported(folder: Path, report: dict[str, Any]) -> None:
    session = onnxruntime.InferenceSession(
        folder / "4-bit" / "model.onnx", providers=["CPUExecutionProvider"]
    )
    samples = np.load(folder / "test.npz")["input"]
    labels = np.load(folder / "test-labels.npy")
    (logits,) = session.run(None, {"input": samples})
    assert (logits.argmax(-1) == labels).mean() == at(report, 4)["awq"]["accuracy"]["onnxruntime"]
    assert (folder / "4-bit" / "report.html").is_file()


def test_the_next_steps_work(folder: Path, tmp_path: Path) -> None:
    model, calib = str(folder / "model.pt"), str(folder / "calib.npz")
    assert run(["explain", model]) == 0
    out = str(tmp_path / "three")
    assert run(["compile", model, "--calib", calib, "--bits", "3", "-o", out]) == 0
    test = str(folder / "test.npz")
    assert run(["verify", str(folder / "4-bit"), "--calib", test, "--against", model]) == 0


def test_other_widths_learn_made_up_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = ["demo", "--dims", "48,40,5", "--bits", "4", "--epochs", "4", "--json"]
    assert run([*arguments, "-o", str(out)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["data"]["synthetic"]
    assert "made-up" in report["data"]["description"]
    assert report == json.loads((out / "report.json").read_text())
    assert [weight["shape"] for weight in report["weights"]] == [[40, 48], [5, 40]]


@pytest.mark.parametrize("text", ["", "64", "64,0,10", "64,-1,10", "a,b", "64,10,1"])
def test_dims_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="dims="):
        parse_dims(text)


def test_missing_scikit_learn_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(UsageError, match="pip install scikit-learn"):
        load_task((64, 10), seed=0)


def test_same_seed_same_data() -> None:
    first, second = (load_task((12, 3), seed=7) for _ in range(2))
    assert first.train_x.equal(second.train_x)
    assert not first.train_x.equal(load_task((12, 3), seed=8).train_x)


def test_a_folder_of_others_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    assert run(["demo", "-o", str(tmp_path)]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
