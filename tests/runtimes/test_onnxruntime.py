"""Opening models: which form, with which settings, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import awqc
from awqc.errors import UsageError, VerificationError
from awqc.runtimes.onnxruntime import load, why_no_cuda
from awqc.runtimes.session_file import find_model, open_session
from awqc.runtimes.session_settings import SETTINGS, Settings, read_settings
from tests.tiny import inputs, model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A compiled folder with both forms."""
    target = tmp_path_factory.mktemp("runtime") / "out"
    awqc.compile(
        model("mlp"),
        (inputs("mlp"),),
        formats=("ort", "onnx"),
        provider="cpu",
        output_dir=target,
    )
    return target


def test_the_form_of_onnxruntime_is_preferred(folder: Path, tmp_path: Path) -> None:
    assert find_model(folder) == folder / "ort" / "model.onnx"
    assert find_model(folder / "ort") == folder / "ort" / "model.onnx"
    assert find_model(folder / "model.onnx") == folder / "model.onnx"
    with pytest.raises(UsageError, match=r"there is no model\.onnx, and none in ort/"):
        find_model(tmp_path)


def test_a_level_overrides_the_model(folder: Path) -> None:
    x = {"input": inputs("mlp")}
    exact = load(folder / "model.onnx", "cpu", accuracy_level=1).run(x)[0]
    tuned = {level: load(folder, "cpu", level).run(x)[0] for level in (None, 1, 4)}
    assert torch.allclose(tuned[1], exact, rtol=1e-5, atol=1e-6)
    assert torch.equal(tuned[None], tuned[4])
    assert not torch.equal(tuned[1], tuned[4])
    with pytest.raises(UsageError, match="accuracy level 7: give a number from 0 to 4"):
        load(folder, "cpu", 7)


def test_settings_are_read_and_applied(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes((folder / "model.onnx").read_bytes())
    assert read_settings(path, "cpu") == Settings()
    content = {
        "config": {"session.qdq_matmulnbits_accuracy_level": 1},
        "providers": {
            "cuda": {"config": {"ep.cuda.fpa_intb_gemm": "1"}, "options": {"use_tf32": 0}}
        },
    }
    (tmp_path / SETTINGS).write_text(json.dumps(content))
    level = {"session.qdq_matmulnbits_accuracy_level": "1"}
    assert read_settings(path, "cpu") == Settings(level)
    cuda = Settings({**level, "ep.cuda.fpa_intb_gemm": "1"}, {"use_tf32": "0"})
    assert read_settings(path, "cuda") == cuda
    x = {"input": inputs("mlp")}
    exact = load(folder / "model.onnx", "cpu", accuracy_level=1).run(x)[0]
    assert torch.equal(load(tmp_path, "cpu").run(x)[0], exact)
    (tmp_path / SETTINGS).write_text("[]")
    with pytest.raises(UsageError, match=r"session\.json: is no file of session settings"):
        load(tmp_path, "cpu")


def test_what_does_not_load_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"nonsense")
    with pytest.raises(VerificationError, match=r"model\.onnx: onnxruntime does not load it"):
        load(tmp_path, "cpu")


@pytest.mark.skipif(why_no_cuda() is None, reason="CUDA works here")
def test_cuda_is_never_replaced_silently(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"provider='cuda': .*; use cpu or auto"):
        load(folder, "cuda")
    with pytest.raises(UsageError, match="fell back to the CPU: install onnxruntime-gpu"):
        open_session(folder / "model.onnx", "cuda")
