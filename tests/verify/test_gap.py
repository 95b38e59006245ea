"""The measures of one output."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from awqc.errors import VerificationError
from awqc.verify.gap import Gap


def gap(now: Tensor, reference: Tensor, mask: Tensor | None = None) -> Gap:
    made = Gap()
    made.add(now, reference, mask)
    return made


def relative_to_variation(now: Tensor, reference: Tensor) -> float:
    now, reference = now.double(), reference.double()
    return float((now - reference).norm() / (reference - reference.mean()).norm())


@pytest.mark.parametrize("offset", [0.0, 3.0, -1e3])
def test_measures_are_those_of_the_definition(offset: float) -> None:
    reference = torch.randn(20, 5) + offset
    now = reference + 0.1 * torch.randn(20, 5)
    found, wanted = gap(now, reference), relative_to_variation(now, reference)
    assert found.rel == pytest.approx(wanted)
    assert found.sqnr_db == pytest.approx(-20 * math.log10(wanted))
    assert found.max_abs == pytest.approx(float((now - reference).abs().max()))
    cosine = torch.cosine_similarity(now.flatten().double(), reference.flatten().double(), dim=0)
    assert found.cosine == pytest.approx(float(cosine))
    agreement = (now.argmax(-1) == reference.argmax(-1)).double().mean()
    assert found.argmax_agreement == pytest.approx(float(agreement))
    assert found.rounding == pytest.approx(16 * 2**-23 * found.magnitude / found.variation)


def test_batches_add_up() -> None:
    reference, now = torch.randn(20, 5) + 50, torch.randn(20, 5) + 50
    whole, parts = gap(now, reference), Gap()
    for index in range(0, 20, 7):
        parts.add(now[index : index + 7], reference[index : index + 7])
    assert parts.rel == pytest.approx(whole.rel)
    assert parts.column == pytest.approx(whole.column)
    assert parts.argmax_agreement == whole.argmax_agreement
    assert parts.compared == whole.compared == 100


def test_equal_outputs_have_no_gap() -> None:
    x = torch.randn(9, 4)
    found = gap(x, x.clone())
    assert (found.rel, found.sqnr_db, found.max_abs, found.row, found.column) == (0, None, 0, 0, 0)
    assert found.cosine == pytest.approx(1)
    assert gap(torch.ones(3), torch.zeros(3)).rel == math.inf


def test_what_does_not_vary_is_measured_by_its_magnitude() -> None:
    reference = torch.full((4, 5), 200.0)
    assert gap(reference * 1.01, reference).rel == pytest.approx(0.01)
    assert gap(torch.tensor(2.02), torch.tensor(2.0)).rel == pytest.approx(0.01)


@pytest.mark.parametrize("offset", [0.0, 1e3])
@pytest.mark.parametrize("error", [0.1, 0.01])
def test_one_wrong_row_among_many_shows(offset: float, error: float) -> None:
    reference = torch.randn(5000, 64) + offset
    now = reference.clone()
    now[77] += error * torch.randn(64)
    found = gap(now, reference)
    assert found.rel < 0.02 * error
    assert 0.2 * error < found.row < error
    assert gap(reference * (1 + 1e-7), reference).row < 1e-6


@pytest.mark.parametrize("scale", [1.0, 0.05])
@pytest.mark.parametrize("error", [0.1, 0.01])
def test_one_wrong_column_among_many_shows_by_its_own_variation(scale: float, error: float) -> None:
    size = torch.ones(2000)
    size[7] = scale
    reference = torch.randn(50, 2000) * size + 3 * torch.randn(2000)
    now = reference.clone()
    now[:, 7] += error * scale * torch.randn(50)
    found = gap(now, reference)
    assert found.rel < 0.01 * error
    assert found.column is not None
    assert 0.3 * error < found.column < 1.5 * error
    assert gap(now[:7], reference[:7]).column is None


def test_rounding_of_a_large_offset_is_no_error() -> None:
    varied = torch.randn(50, 16, dtype=torch.float64) * 0.1 + 1000
    found = gap(varied.float(), varied)
    assert 0 < found.rel < found.rounding
    assert (found.row, found.column) == (0, 0)


def test_integers_and_booleans_are_equal_or_not() -> None:
    reference = torch.arange(1000)
    now = reference.clone()
    now[:5] = now[:5].flip(0)
    found = gap(now, reference)
    assert (found.discrete, found.differing, found.compared) == (True, 0.004, 1000)
    assert found.rel < 0.001  # as numbers they hardly moved
    assert gap(reference * 0 == 1, reference == 7).rel == 0.001
    assert set(found.distance()) == {"max_abs", "rel", "compared", "differing"}


def test_what_was_compared() -> None:
    nothing = torch.zeros(3, 4)
    assert gap(nothing, nothing).compared == 0
    assert gap(nothing + math.nan, nothing + math.nan).compared == 0
    assert Gap().compared == gap(nothing[:0], nothing[:0]).compared == 0
    assert gap(nothing, nothing + 1).compared == gap(nothing + 1, nothing).compared == 12
    assert gap(nothing.int(), nothing.int()).compared == 12
    constant = Gap(constant=True)
    constant.add(nothing, nothing)
    assert constant.compared == 12


def test_complex_outputs_are_compared() -> None:
    reference = torch.randn(20, 3, dtype=torch.complex64)
    assert gap(reference * 1.01, reference).rel == pytest.approx(0.01, rel=0.1)


def test_padding_does_not_count() -> None:
    reference = torch.randn(2, 3, 4)
    mask = torch.tensor([[True, True, False], [True, False, False]])
    now = reference.clone()
    now[~mask] += 100
    assert gap(now, reference, mask).rel == 0
    assert gap(now, reference).rel > 1
    assert gap(now, reference, mask & False).compared == 0


def test_what_is_not_finite() -> None:
    nan, inf = float("nan"), float("inf")
    reference = torch.tensor([1.0, inf, -inf, nan])
    assert gap(reference.clone(), reference).rel == 0
    assert gap(torch.tensor([1.0, inf, -inf, 3.0]), reference).finite
    assert gap(torch.tensor([nan, inf, -inf, nan]), reference).rel == inf
    assert gap(torch.tensor([1.0, -inf, -inf, nan]), reference).rel == inf
    masked = torch.randn(20, 8).masked_fill(torch.eye(20, 8, dtype=torch.bool), -inf)
    found = gap(masked * 1.01, masked)
    finite = masked[masked.isfinite()]
    assert found.rel == pytest.approx(relative_to_variation(finite * 1.01, finite))
    assert found.column is not None
    assert found.column < 0.05


def test_another_shape_is_an_error() -> None:
    with pytest.raises(VerificationError, match=r"shape \(2, 3\), the reference \(3, 2\)"):
        gap(torch.zeros(2, 3), torch.zeros(3, 2))


def test_the_lowest_number_hides_no_difference_beside_it() -> None:
    """Models hide tokens that are never made behind it, next to which all differences are small."""
    lowest = torch.finfo(torch.float32).min
    reference = torch.tensor([[1.0, 2.0, 3.0, lowest]] * 3)
    other = torch.tensor([[3.0, 2.0, 1.0, lowest]] * 3)
    assert gap(other, reference).rel > 1
    assert gap(reference, reference).rel == 0
    shown = torch.tensor([[1.0, 2.0, 3.0, 4.0]] * 3)
    assert not gap(shown.where(shown < 4, lowest), shown).finite
