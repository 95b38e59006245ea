"""The measures."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from awqc.errors import VerificationError
from awqc.verify.gap import Gap
from tests.tiny import relative


def gap(now: Tensor, reference: Tensor, mask: Tensor | None = None) -> Gap:
    made = Gap()
    made.add(now, reference, mask)
    return made


def test_measures_are_those_of_the_definition() -> None:
    reference = torch.randn(20, 5)
    now = reference + 0.1 * torch.randn(20, 5)
    found = gap(now, reference)
    assert found.rel == pytest.approx(relative(now, reference))
    assert found.sqnr_db == pytest.approx(-20 * math.log10(relative(now, reference)))
    assert found.max_abs == pytest.approx(float((now - reference).abs().max()))
    cosine = torch.cosine_similarity(now.flatten(), reference.flatten(), dim=0)
    assert found.cosine == pytest.approx(float(cosine))
    agreement = (now.argmax(-1) == reference.argmax(-1)).double().mean()
    assert found.argmax_agreement == pytest.approx(float(agreement))


def test_batches_add_up() -> None:
    reference, now = torch.randn(20, 5), torch.randn(20, 5)
    whole, parts = gap(now, reference), Gap()
    for index in range(0, 20, 7):
        parts.add(now[index : index + 7], reference[index : index + 7])
    assert parts.rel == pytest.approx(whole.rel)
    assert parts.argmax_agreement == whole.argmax_agreement


def test_equal_outputs_have_no_gap() -> None:
    x = torch.randn(3, 4)
    found = gap(x, x.clone())
    assert (found.rel, found.sqnr_db, found.max_abs) == (0, None, 0)
    assert found.cosine == pytest.approx(1)
    assert gap(torch.zeros(3), torch.zeros(3)).rel == 0
    assert gap(torch.ones(3), torch.zeros(3)).rel == math.inf


def test_padding_does_not_count() -> None:
    reference = torch.randn(2, 3, 4)
    mask = torch.tensor([[True, True, False], [True, False, False]])
    now = reference.clone()
    now[~mask] += 100
    assert gap(now, reference, mask).rel == 0
    assert gap(now, reference).rel > 1


def test_what_is_not_finite() -> None:
    nan, inf = float("nan"), float("inf")
    reference = torch.tensor([1.0, inf, -inf, nan])
    assert gap(reference.clone(), reference).rel == 0
    assert gap(torch.tensor([1.0, inf, -inf, 3.0]), reference).finite
    assert gap(torch.tensor([nan, inf, -inf, nan]), reference).rel == inf
    assert gap(torch.tensor([1.0, -inf, -inf, nan]), reference).rel == inf


def test_another_shape_is_an_error() -> None:
    with pytest.raises(VerificationError, match=r"shape \(2, 3\), the reference \(3, 2\)"):
        gap(torch.zeros(2, 3), torch.zeros(3, 2))
