"""OpenVINO: what a user sees who verifies with it, and what it leaves alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import awqc
from awqc.cli import run
from awqc.errors import UsageError, VerificationError
from awqc.runtimes import openvino
from awqc.runtimes.base import Runtime
from awqc.verify.reverify import reverify
from tests.tiny import inputs, model, relative

RUNTIME: Runtime = openvino
FILE = "model.onnx"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A compiled folder that OpenVINO has verified."""
    target = tmp_path_factory.mktemp("openvino") / "out"
    awqc.compile(
        model("gated"),
        (inputs("gated"),),
        verify_with=("onnxruntime", "openvino"),
        effort="fast",
        provider="cpu",
        output_dir=target,
    )
    return target


def test_both_runtimes_stand_in_the_report(folder: Path) -> None:
    verify = json.loads((folder / "report.json").read_text())["verify"]
    assert [found["runtime"] for found in verify["comparisons"]] == ["onnxruntime", "openvino"]
    ours = verify["comparisons"][1]
    assert ours["exact"]["rel"] < 1e-5
    assert ours["form"] == "onnx"
    assert ours["kernels"]["low_bit"] == 3
    assert ours["kernels"]["unfused"] == ours["kernels"]["dequantized"] == []
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "onnx in openvino on cpu" in page
    assert "in onnxruntime and openvino" in page


def test_exact_products_are_in_float32(folder: Path) -> None:
    exact = openvino.open_model(folder / FILE, exact=True)
    assert exact._compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name() == "f32"
    assert exact._compiled.get_property("DYNAMIC_QUANTIZATION_GROUP_SIZE") == 0
    exact.run({"x": inputs("gated")})
    assert exact.kernels().precision.endswith("_f32")


def test_weights_without_a_kernel_are_named(tmp_path: Path) -> None:
    awqc.compile(
        model("conv"),
        (inputs("conv"),),
        exclude=["11.weight"],
        verify_with="openvino",
        effort="fast",
        provider="cpu",
        output_dir=tmp_path / "out",
    )
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    (found,) = report["verify"]["comparisons"]
    assert found["runtime"] == "openvino"
    assert found["kernels"]["low_bit"] == 0
    assert found["kernels"]["precision"] == "as the model"
    assert found["kernels"]["dequantized"] == [layer["name"] for layer in report["layers"]]


def test_the_command_verifies_again(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["verify", str(folder), "--verify-with", "openvino,torch-int4"]) == 0
    told = capsys.readouterr().out
    assert "verified: onnx in openvino on cpu = quantized within" in told
    assert "verified: pt2 in torch-int4 on cpu = quantized within" in told


def test_a_model_is_opened_for_a_user(folder: Path) -> None:
    x = inputs("gated", batch=3)
    loaded, exact = (awqc.load(folder, backend="openvino", accuracy_level=n) for n in (None, 1))
    wanted = torch.export.load(folder / "model.pt2").module()(x)
    assert relative(exact.run({"x": x})[0], wanted) < 1e-5
    assert relative(loaded.run({"x": x})[0], wanted) < 0.05
    with pytest.raises(UsageError, match="leave provider out"):
        awqc.load(folder, "cuda", backend="openvino")
    with pytest.raises(UsageError, match="accuracy level 1"):
        awqc.load(folder, "auto", 4, backend="openvino")


def test_a_model_that_it_does_not_take_is_not_published(tmp_path: Path) -> None:
    """48 columns in groups of 32: the last is smaller, which it refuses."""
    refused = r"model\.onnx: openvino does not load it: .*\(48\)"
    with pytest.raises(VerificationError, match=refused):
        awqc.compile(
            model("conv"),
            (inputs("conv"),),
            verify_with="openvino",
            effort="fast",
            provider="cpu",
            output_dir=tmp_path / "out",
        )
    assert not (tmp_path / "out").exists()


def test_what_it_has_nothing_to_run_of_is_refused_before_work_begins(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"openvino has nothing to verify: it runs onnx, .*pt2"):
        awqc.compile(model("mlp"), (inputs("mlp"),), verify_with="openvino", formats=("pt2",))
    (tmp_path / "model.pt2").touch()
    with pytest.raises(UsageError, match=r"has no model\.onnx, which openvino runs"):
        reverify(tmp_path, verify_with=("openvino",))


def test_where_the_package_is_missing_the_message_says_what_to_install(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    needed = r"openvino: the package openvino is not installed: pip install 'awqc\[openvino\]'"
    with pytest.raises(UsageError, match=needed):
        awqc.compile(model("mlp"), (inputs("mlp"),), verify_with=["onnxruntime", "openvino"])
    with pytest.raises(UsageError, match=needed):
        awqc.load(folder, backend="openvino")
    assert run(["verify", str(folder), "--verify-with", "openvino"]) == 2
    assert "pip install 'awqc[openvino]'" in capsys.readouterr().err


def test_an_installation_that_is_broken_says_how(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "openvino.py").write_text("raise ImportError('no libtbb')")
    monkeypatch.delitem(sys.modules, "openvino", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UsageError, match=r"cannot be imported \(no libtbb\)"):
        openvino.import_openvino()


def test_its_telemetry_stays_out(folder: Path, tmp_path: Path) -> None:
    """By itself ``import openvino`` sends an event and keeps an identifier in the home folder."""
    code = (
        "import sys\nfrom pathlib import Path\nfrom awqc.runtimes.openvino import open_model\n"
        f"open_model(Path({str(folder / FILE)!r}), exact=True)\n"
        "assert 'openvino' in sys.modules and 'openvino_telemetry' not in sys.modules\n"
    )
    home = os.environ | {"HOME": str(tmp_path), "LOCALAPPDATA": str(tmp_path)}
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, env=home)
    assert {"intel", "Intel Corporation"}.isdisjoint(path.name for path in tmp_path.iterdir())
