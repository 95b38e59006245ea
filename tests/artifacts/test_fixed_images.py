"""The one size of images that a compiled model takes."""

from __future__ import annotations

import numpy as np
import pytest

from awqc.artifacts.fixed_images import FixedImages
from awqc.errors import UsageError

FIXED = FixedImages(240, 320, {"grid": np.array([[1, 6, 8]])})


def test_it_comes_back_from_its_text() -> None:
    read = FixedImages.of_text(FIXED.as_text(), "model.onnx")
    assert (read.size, list(read.numbers)) == ((240, 320), ["grid"])
    assert np.array_equal(read.numbers["grid"], FIXED.numbers["grid"])


@pytest.mark.parametrize("count", [1, 3])
def test_images_are_counted(count: int) -> None:
    assert FIXED.count({"grid": np.array([[1, 6, 8]] * count), "pixels": np.zeros(3)}) == count


@pytest.mark.parametrize("grid", [[], [[1, 8, 6]], [[1, 6, 8], [1, 6, 6]], [[1, 6]]])
def test_images_of_another_size_are_refused(grid: list[list[int]]) -> None:
    with pytest.raises(UsageError, match="compiled for images of 240 x 320 pixels"):
        FIXED.count({"grid": np.array(grid)})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "an object is needed"),
        ('{"height": 1, "width": "2", "inputs": {}}', "'width' is a str"),
        ('{"height": 1, "width": 2, "inputs": {"grid": ["a"]}}', "no whole numbers"),
    ],
)
def test_damaged_text_is_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        FixedImages.of_text(text, "model.onnx")
