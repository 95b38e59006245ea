"""The sums that the search stands on: exact where narrow, unbiased where wide."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from awqc.numerics.statistics import EXACT_COLUMNS, LARGEST, SPAN, Accumulator, Statistics


def observed(*batches: Tensor, rows: int = 64, seed: int = 0) -> Statistics:
    accumulator = Accumulator(rows, seed)
    for batch in batches:
        assert accumulator.add(batch)
    return accumulator.finish()


def moments(x: Tensor) -> Tensor:
    """``X^T X / tokens`` of ``(blocks, tokens, K)``, in float64."""
    x = x.double()
    return x.transpose(1, 2) @ x / x.shape[1]


def gram(statistics: Statistics) -> Tensor:
    factor = statistics.factor.double()
    return factor.transpose(1, 2) @ factor


@pytest.mark.parametrize("columns", [1, 7, 64, EXACT_COLUMNS])
@pytest.mark.parametrize("blocks", [1, 3])
def test_narrow_activations_are_exact(columns: int, blocks: int) -> None:
    x = torch.randn(blocks, 90, columns)
    found = observed(x[:, :40], x[:, 40:41], x[:, 41:])
    assert found.tokens == 90
    # float32 sums of 90 products: a few units of 1.2e-7.
    torch.testing.assert_close(gram(found), moments(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.abs_mean, x.abs().mean(1))
    assert torch.equal(found.abs_max, x.abs().amax(1))


def test_wide_activations_are_sketched_without_bias() -> None:
    columns = EXACT_COLUMNS + 4
    mixing = torch.randn(columns, columns) / columns**0.5
    x = (torch.randn(1, 300, columns) @ mixing) * torch.linspace(0.1, 3, columns)
    seeds = 200
    total = sum(gram(observed(x[:, :130], x[:, 130:], rows=32, seed=s)) for s in range(seeds))
    wanted = moments(x)
    # One sketch errs by about |X|^2 / sqrt(32) an entry; the mean of 200 by 1/14 of that.
    error = (total / seeds - wanted).norm() / wanted.norm()
    single = (gram(observed(x, rows=32)) - wanted).norm() / wanted.norm()
    assert error < 0.15 * single
    diagonal = (total / seeds - wanted).diagonal(dim1=1, dim2=2).mean()
    assert abs(float(diagonal)) < 0.02 * float(wanted.diagonal(dim1=1, dim2=2).mean())


def test_a_loss_on_the_sketch_is_near_the_true_loss() -> None:
    x = torch.randn(1, 2000, 400) * torch.linspace(0.1, 5, 400)
    error = 0.01 * torch.randn(256, 400)
    found = observed(*x.split(100, dim=1), rows=256)
    estimate = (error @ found.factor[0].T).square().sum()
    truth = (error @ x[0].T).square().sum() / 2000
    # 256 rows of error average out: relative deviation about sqrt(2 / 256 / 256) = 0.6 %.
    assert float(estimate / truth) == pytest.approx(1, abs=0.05)


def test_fewer_tokens_than_rows_are_kept_exactly() -> None:
    x = torch.randn(1, 50, EXACT_COLUMNS + 10)
    found = observed(x, rows=64)
    torch.testing.assert_close(gram(found), moments(x), rtol=1e-5, atol=1e-5)


def test_the_seed_decides_the_sketch() -> None:
    x = torch.randn(1, 200, EXACT_COLUMNS + 1)
    assert torch.equal(observed(x, seed=3).factor, observed(x, seed=3).factor)
    assert not torch.equal(observed(x, seed=3).factor, observed(x, seed=4).factor)


@pytest.mark.parametrize("columns", [8, EXACT_COLUMNS + 8])
def test_dead_and_tiny_and_huge_channels(columns: int) -> None:
    x = torch.randn(1, 64, columns)
    x[..., 0], x[..., 1], x[..., 2], x[..., 3] = 0, 1e-40, 1e8, 5.0
    found = observed(x)
    assert bool(torch.isfinite(found.factor).all())
    assert float(found.abs_mean[0, 0]) == 0
    assert bool((gram(found)[0, 0].abs() <= 1e-9 * gram(found).max()).all())
    assert float(found.abs_mean[0, 2]) == pytest.approx(1e8)
    assert float(found.abs_max[0, 3]) == 5


@pytest.mark.parametrize("columns", [EXACT_COLUMNS + 1, SPAN, 2 * SPAN + 9])
def test_a_gram_that_was_asked_for_is_whole_and_exact(columns: int) -> None:
    x = torch.randn(2, 90, columns)
    accumulator = Accumulator(64, 0, gram=True)
    for batch in (x[:, :50], x[:, 50:]):
        assert accumulator.add(batch)
    found = accumulator.finish().gram
    assert found is not None
    torch.testing.assert_close(found.double(), moments(x), rtol=1e-5, atol=1e-5)
    assert torch.equal(found[:, SPAN:, :SPAN], found[:, :SPAN, SPAN:].mT)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 10 * LARGEST])
def test_unusable_values_are_refused_and_not_summed(bad: float) -> None:
    accumulator = Accumulator(8, 0)
    x = torch.randn(1, 4, 6)
    assert accumulator.add(x)
    spoiled = x.clone()
    spoiled[0, 2, 3] = bad
    assert not accumulator.add(spoiled)
    assert accumulator.tokens == 4
    torch.testing.assert_close(gram(accumulator.finish()), moments(x), rtol=1e-5, atol=1e-6)


def test_values_at_the_limit_are_summed() -> None:
    found = observed(torch.full((1, 1000, 3), LARGEST))
    assert bool(torch.isfinite(found.factor).all())


def test_no_tokens_are_no_trouble() -> None:
    accumulator = Accumulator(8, 0)
    assert accumulator.add(torch.randn(1, 0, EXACT_COLUMNS + 1))
    assert accumulator.tokens == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_activations_are_summed_in_float32(dtype: torch.dtype) -> None:
    x = (torch.randn(1, 500, 8) * 200).to(dtype)
    torch.testing.assert_close(gram(observed(x)), moments(x), rtol=1e-4, atol=1.0)
