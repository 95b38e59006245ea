"""Planted code is no harmless text: loaders that promise no safety run it."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.fuzz.planted import TEXTS, WAYS
from tests.pt2.attacks import MARK


def of_torch(content: bytes) -> Any:
    return torch.load(io.BytesIO(content), weights_only=False)


def of_numpy(content: bytes) -> Any:
    return np.load(io.BytesIO(content), allow_pickle=True)["x"]


@pytest.mark.parametrize(("way", "load"), [
    ("a pickle", pickle.loads),
    ("a pickle of torch", of_torch),
    ("a pickle of torch's older format", of_torch),
    ("an array of objects", of_numpy),
])  # fmt: skip
def test_a_planted_pickle_runs_where_it_is_trusted(
    way: str, load: Callable[[bytes], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    planted = WAYS[way](b"")
    assert planted is not None
    load(planted)
    assert Path(MARK).exists()


def test_a_planted_text_runs_where_it_is_evaluated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import jinja2

    monkeypatch.chdir(tmp_path)
    code, template, *_ = TEXTS
    eval(code)
    assert Path(MARK).exists()
    Path(MARK).unlink()
    jinja2.Template(template).render()
    assert Path(MARK).exists()


def test_json_keeps_its_form() -> None:
    content = b'{"a": "b", "c": ["d", {"e": "f"}]}'
    made = WAYS["classes of a folder's own"](content)
    assert made is not None
    assert b"auto_map" in made
    assert WAYS["code in texts"](content) is not None
    assert WAYS["code in texts"](b"\x80") is WAYS["a pickle in an archive"](b"{}") is None
