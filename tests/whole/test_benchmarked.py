"""``awqc bench`` on a folder of several graphs: each file, and the whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import awqc
from awqc.cli import run
from benchmarks.folder_models import MODELS
from tests.tiny_pipelines import save_unconditional

CHEAP: dict[str, Any] = {
    "effort": "fast", "bits": 8, "group_size": 16, "provider": "cpu", "num_samples": 6,
}  # fmt: skip
QUICK = [
    "--turns",
    "1",
    "--threads",
    "1",
    "--tokens",
    "5",
    "--new-tokens",
    "3",
    "--provider",
    "cpu",
]
Capture = pytest.CaptureFixture[str]
pytestmark = pytest.mark.slow


def test_an_encoder_decoder_is_measured_by_files_and_as_a_whole(
    tmp_path: Path, capsys: Capture
) -> None:
    MODELS["text2text-generation/bart"].save(tmp_path / "bart")
    out = tmp_path / "out"
    awqc.compile(tmp_path / "bart", output_dir=out, formats=("onnx", "ort"), **CHEAP)
    against = ["--against", str(tmp_path / "bart")]
    assert run(["bench", str(out), *QUICK, *against, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found["parts"]) == ["encoder", "decoder"]
    forms = ["quantized ort", "quantized onnx", "float onnx"]
    for part in found["parts"].values():
        assert list(part["forms"]) == forms
        assert part["ratios"]["to"] == "float onnx"
    assert all(f["latency_ms"] > 0 for f in found["parts"]["encoder"]["forms"].values())
    assert all(f["decode_tokens_per_s"] > 0 for f in found["parts"]["decoder"]["forms"].values())
    assert list(found["whole"]["forms"]) == ["quantized ort", "float onnx"]
    assert run(["bench", str(out), *QUICK]) == 0
    told = capsys.readouterr().out
    assert "the whole" in told
    assert "float onnx" not in told
    assert run(["bench", str(out), *QUICK, "--against", str(tmp_path)]) == 2
    assert "is no folder of a model of several graphs" in capsys.readouterr().err
    save_unconditional(tmp_path / "pixels")
    assert run(["bench", str(out), *QUICK, "--against", str(tmp_path / "pixels")]) == 2
    assert "has no part encoder" in capsys.readouterr().err


def test_a_pipeline_is_measured_by_its_parts(tmp_path: Path, capsys: Capture) -> None:
    save_unconditional(tmp_path / "made")
    awqc.compile(tmp_path / "made", output_dir=tmp_path / "out", formats=("onnx",), **CHEAP)
    more = ["--tokens", "16", "--against", str(tmp_path / "made"), "--json"]
    assert run(["bench", str(tmp_path / "out"), *QUICK, *more]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found["parts"]["unet"]["forms"]) == ["quantized onnx", "float onnx"]
    assert "whole" not in found
