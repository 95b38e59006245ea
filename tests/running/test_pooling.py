"""One vector of a text, as the files beside the model say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from awqc.errors import UsageError
from awqc.running.pooling import MODES, Pooling

STATES = np.array([[[1.0, -4.0], [3.0, 2.0], [5.0, 5.0], [9.0, 9.0]]])
MASK = np.array([[1, 1, 1, 0]])
VECTORS: dict[str, list[float]] = {
    "cls": [1, -4],
    "max": [5, 5],
    "mean": [3, 1],
    "mean_sqrt_len_tokens": [9 / 3**0.5, 3 / 3**0.5],
    "weightedmean": [(1 + 6 + 15) / 6, (-4 + 4 + 15) / 6],
    "lasttoken": [5, 5],
}


def written(folder: Path, pooling: dict[str, Any], *more: str) -> Path:
    kinds = ("Transformer", "Pooling", *more)
    modules = [
        {"idx": index, "name": str(index), "path": f"{index}_{kind}" if index else "",
         "type": f"sentence_transformers.models.{kind}"}
        for index, kind in enumerate(kinds)
    ]  # fmt: skip
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return folder


@pytest.mark.parametrize("mode", VECTORS)
def test_each_mode_over_what_is_no_padding(mode: str, tmp_path: Path) -> None:
    assert set(VECTORS) == set(MODES)
    found = Pooling.read(written(tmp_path, {"pooling_mode": mode}))
    assert found == Pooling((mode,))
    np.testing.assert_allclose(found.vector(STATES, MASK), VECTORS[mode])


def test_what_older_versions_write_and_a_length_of_one(tmp_path: Path) -> None:
    flags = {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True,
             "pooling_mode_max_tokens": False, "word_embedding_dimension": 2}  # fmt: skip
    found = Pooling.read(written(tmp_path, flags, "Normalize"))
    assert found == Pooling(("cls", "mean"), normalize=True)
    vector = np.array([1.0, -4.0, 3.0, 1.0])
    np.testing.assert_allclose(found.vector(STATES, MASK), vector / np.linalg.norm(vector))
    np.testing.assert_array_equal(found.vector(STATES, 0 * MASK), np.zeros(4))


def test_what_is_not_known_is_said(tmp_path: Path) -> None:
    assert Pooling.read(tmp_path) is None
    for name, made, message in (
        ("a", ({"pooling_mode": "middle"},), "the pooling 'middle' is not known: cls, max"),
        ("b", ({}, "Dense"), "models.Dense follows the model; pooling and normalisation are known"),
    ):
        (tmp_path / name).mkdir()
        with pytest.raises(UsageError, match=message):
            Pooling.read(written(tmp_path / name, *made))
