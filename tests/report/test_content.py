"""report.json: the keys that others read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import awqc

TOP = {
    "schema", "sites", "layers", "skipped", "size", "verify", "timing_s", "recipe", "environment",
}  # fmt: skip
SITE = {
    "name", "linears", "status", "reason", "channels", "scales", "candidate", "loss_nearest",
    "loss",
}  # fmt: skip
LAYER = {
    "name", "op", "bits", "group_size", "weight_error", "output_sqnr_db", "accumulated_sqnr_db",
    "bytes",
}  # fmt: skip
VERIFY = {"original", "comparisons", "batches", "text", "notes"}
COMPARISON = {"runtime", "form", "provider", "exact", "default", "original", "kernels"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = nn.Sequential(nn.Linear(32, 48), nn.ReLU(), nn.Linear(48, 48), nn.GELU(),
                          nn.Linear(48, 8)).eval()  # fmt: skip
    path = tmp_path_factory.mktemp("report") / "out"
    torch.manual_seed(0)
    calib = [(torch.randn(16, 32),) for _ in range(4)]
    awqc.compile(model, (torch.randn(4, 32),), calib, exclude=["4"], output_dir=path)
    return path


@pytest.fixture(scope="module")
def report(folder: Path) -> dict[str, Any]:
    value = json.loads((folder / "report.json").read_text())
    assert isinstance(value, dict)
    return value


def test_the_keys_are_there(report: dict[str, Any]) -> None:
    assert report["schema"] == 3
    assert report.keys() >= TOP
    assert report["sites"]
    assert report["layers"]
    assert all(site.keys() >= SITE for site in report["sites"])
    assert all(layer.keys() >= LAYER for layer in report["layers"])
    assert report["notes"] == []
    assert report["skipped"] == [{"name": "4.weight", "reason": "excluded by the user (4)"}]
    assert report["size"].keys() >= {"original_bytes", "quantized_bytes", "ratio"}
    verify = report["verify"]
    assert verify.keys() >= VERIFY
    (found,) = verify["comparisons"]
    assert found.keys() >= COMPARISON
    for key in ("exact", "default"):
        assert found[key].keys() >= {"max_abs", "rel"}
    assert found["kernels"].keys() >= {"low_bit", "unfused", "dequantized", "precision"}
    assert verify["original"].keys() >= {"sqnr_db", "cosine", "max_abs", "argmax_agreement"}
    assert all(isinstance(seconds, float) for seconds in report["timing_s"].values())


def test_every_site_has_its_reason(report: dict[str, Any]) -> None:
    for site in report["sites"]:
        assert site["status"] in ("folded", "runtime", "refused")
        assert site["status"] == "folded" or site["reason"]
        assert site["loss"] <= site["loss_nearest"]


def test_the_page_lies_beside_it(folder: Path, report: dict[str, Any]) -> None:
    page = (folder / "report.html").read_text(encoding="utf-8").replace("<wbr>", "")
    for layer in report["layers"]:
        assert layer["name"] in page


def test_size_is_what_is_stored(report: dict[str, Any]) -> None:
    size = report["size"]
    floats = 32 * 48 + 48 + 48 * 48 + 48 + 48 * 8 + 8
    assert size["original_bytes"] == 4 * floats
    left = 4 * (48 + 48 + 48 * 8 + 8)
    runtime = sum(4 * s["channels"] for s in report["sites"] if s["status"] == "runtime")
    stored = sum(layer["bytes"] for layer in report["layers"])
    # A layer counts zero points packed, as ONNX has them; the graph keeps one a byte.
    assert size["quantized_bytes"] == pytest.approx(left + runtime + stored, rel=0.02)
    assert size["ratio"] == pytest.approx(size["original_bytes"] / size["quantized_bytes"])
