"""Models of each dtype, through each way in, on each kind of data: what onnxruntime then gives."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

import awqc
from awqc.cli import run
from tests.tiny import relative
from tests.tiny_language_models import save_decoder, save_tokenizer

DTYPES = ("float32", "float16", "bfloat16", "float64")
ENTRIES = ("module", "model.pt", "model.pt2", "user_dtypes:make")
DATA = ("npz", "arrays", "nothing")
CHEAP: dict[str, Any] = {"bits": 8, "effort": "fast", "formats": ("onnx",), "provider": "cpu"}


class Net(nn.Sequential):
    """Not of torch.nn alone, so that its pickle needs trust."""


def make(dtype: str) -> Net:
    torch.manual_seed(0)
    return Net(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 8)).to(getattr(torch, dtype)).eval()


@pytest.fixture(autouse=True)
def _in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("user_dtypes", None)


def written(entry: str, dtype: str) -> Any:
    """The model, put where ``entry`` says."""
    net = make(dtype)
    if entry == "model.pt":
        torch.save(net, entry)
    elif entry == "model.pt2":
        example = torch.zeros(4, 16, dtype=getattr(torch, dtype))
        dynamic = {"input": {0: torch.export.Dim.AUTO}}
        torch.export.save(torch.export.export(net, (example,), dynamic_shapes=dynamic), entry)
    elif entry == "user_dtypes:make":
        Path("user_dtypes.py").write_text(
            f"from {__name__} import make as made\ndef make():\n    return made({dtype!r})\n"
        )
    return net if entry == "module" else entry


def data(kind: str) -> Any:
    drawn = np.random.default_rng(0).normal(size=(40, 16))
    np.savez("data.npz", input=drawn)
    return {"npz": "data.npz", "arrays": {"input": drawn}, "nothing": None}[kind]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("entry", ENTRIES)
def test_every_dtype_compiles_through_every_entry(dtype: str, entry: str) -> None:
    model = written(entry, dtype)
    given = DATA[(DTYPES.index(dtype) + ENTRIES.index(entry)) % len(DATA)]
    result = awqc.compile(model, calib=data(given), trust_pickle=True, **CHEAP)
    session = onnxruntime.InferenceSession(str(result.folder / "model.onnx"))
    taken = {"float16": torch.float16}.get(dtype, torch.float32)
    x = torch.randn(5, 16).to(taken)
    (found,) = session.run(None, {"input": x.numpy()})
    with torch.no_grad():
        wanted = make(dtype)(x.to(getattr(torch, dtype)))
    assert relative(torch.tensor(found), wanted) < 0.03
    assert any("came in float64" in note for note in result.report["notes"]) == (dtype == "float64")


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_is_verified_against_its_original(dtype: str) -> None:
    written("model.pt", dtype)
    data("npz")
    model = ["model.pt", "--trust-pickle", "--calib", "data.npz"]
    assert run(["compile", *model, "--effort", "fast", "--bits", "8", "-o", "out"]) == 0
    given = ["--trust-pickle", "--calib", "data.npz", "--max-loss", "0.05"]
    assert run(["verify", "out", "--against", "model.pt", *given]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_folder_of_every_dtype_compiles(dtype: str, tmp_path: Path) -> None:
    original = save_decoder("llama", tmp_path / "model")
    original.to(getattr(torch, dtype)).save_pretrained(tmp_path / "model")
    save_tokenizer(tmp_path / "model")
    Path("text.txt").write_text(" ".join(f"w{4 + index * 7 % 120}" for index in range(200)))
    options = {**CHEAP, "formats": "pt2", "seq_len": 8, "num_samples": 4}
    result = awqc.compile(tmp_path / "model", calib="text.txt", **options)
    assert result.report["verify"]["original"]["sqnr_db"] > 25
