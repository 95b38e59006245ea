"""Outputs of two models, compared in the terms of what they say."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from awqc.running.measures import OutputMeasure


def measured(name: str, *pairs: tuple[Any, Any]) -> dict[str, Any]:
    measure = OutputMeasure(name)
    for found, reference in pairs:
        measure.add(np.array(found, np.float32), np.array(reference, np.float32))
    return measure.as_dict()


def test_the_likeliest_class_of_each_sample() -> None:
    found = measured("logits", ([[1, 2, 3]], [[0, 0, 9]]), ([[1, 2, 3]], [[9, 0, 0]]))
    assert found["top1_agreement"] == 0.5
    assert "mean_iou" not in found
    assert "top1_agreement" not in measured("embeds", ([[1, 2]], [[2, 1]]))
    assert "top1_agreement" not in measured("logits_per_image", ([[1]], [[2]])), "of one class"


def test_the_overlap_of_masks() -> None:
    # Two classes on four pixels: class 1 is found on two, of which one is right.
    reference = [[[[0, 1, 1, 1]], [[9, 0, 0, 0]]]]
    found = [[[[0, 0, 1, 1]], [[9, 9, 0, 0]]]]
    result = measured("logits", (found, reference))
    assert result["top1_agreement"] == 0.75
    assert result["mean_iou"] == pytest.approx((2 / 3 + 1 / 2) / 2)


def test_cosine_and_peak_signal_to_noise() -> None:
    result = measured("depth", ([[1.0, 0.0]], [[1.0, 0.5]]), ([[0.0, 1.0]], [[0.0, 1.0]]))
    assert result["cosine"] == pytest.approx((1 / math.sqrt(1.25) + 1) / 2)
    assert result["psnr_db"] == pytest.approx(20 * math.log10(1 / math.sqrt(0.25 / 4)))
    same = measured("depth", ([[1.0, 2.0]], [[1.0, 2.0]]))
    assert same == {"cosine": pytest.approx(1), "psnr_db": None}
    assert measured("zero", ([[0.0]], [[0.0]]))["cosine"] == 1
    assert measured("zero", ([[1.0]], [[0.0]]))["cosine"] == 0
