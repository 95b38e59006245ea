"""Rounding that looks at what a product reads: each method against its mathematics."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from awqc.numerics.formats.base import (
    QuantizedWeight,
    Tensors,
    WeightFormat,
    from_groups,
    to_groups,
)
from awqc.numerics.formats.int_grid import IntGrid
from awqc.numerics.grid import Grid
from awqc.numerics.quantizing import whole_range
from awqc.numerics.request import QuantizationSpec
from awqc.numerics.rounding.descent import descend
from awqc.numerics.rounding.gptq import compensate
from awqc.numerics.rounding.gram import conditioned, group_blocks, loss
from awqc.numerics.rounding.methods import round_matrix
from awqc.numerics.rounding.ranges import least_error, search_ranges

FLOAT = torch.float32


def problem(rows: int, columns: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A matrix and the gram of correlated activations with an outlier channel."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(columns, columns, generator=generator) / columns**0.5
    x = torch.randn(4 * columns, columns, generator=generator) @ (mixing + torch.eye(columns))
    x[:, 0] *= 8
    return torch.randn(rows, columns, generator=generator), x.T @ x / len(x)


def asked(rounding: str = "nearest", clip: bool = False, sweeps: int = 0) -> QuantizationSpec:
    return QuantizationSpec(rounding=rounding, clip=clip, sweeps=sweeps)


def full_range(matrix: Tensor, form: WeightFormat) -> Grid:
    return whole_range(matrix, form, FLOAT)[0]


def nearest(matrix: Tensor, grid: Grid, form: WeightFormat) -> Tensor:
    spread = grid.spread()
    return from_groups(spread.value(spread.nearest(to_groups(matrix, form))), matrix.shape[1])


def value(tensors: Tensors, form: WeightFormat, columns: int) -> Tensor:
    """What ``tensors`` stand for, as a graph computes it."""
    rows = len(tensors["packed"])
    return QuantizedWeight(form, tensors, (rows, columns)).dequantize()


def test_each_column_is_rounded_at_the_optimum_given_those_before() -> None:
    """The oracle solves for all free columns anew after each one that is fixed."""
    form = IntGrid(4, 8)
    matrix, gram = problem(5, 24)
    grid = full_range(matrix, form).turned()
    steps = compensate(matrix, gram, grid, 8)

    moments = conditioned(gram).double()
    order = torch.argsort(gram.diagonal(), descending=True, stable=True).tolist()
    wanted, current = torch.zeros(5, 24), matrix.double().clone()
    for position, column in enumerate(order):
        own, low, high = (tensor[column // 8] for tensor in (grid.scale, grid.low, grid.high))
        wanted[:, column] = torch.clamp((current[:, column] / own).round(), low, high)
        current[:, column] = wanted[:, column] * own
        fixed, free = order[: position + 1], order[position + 1 :]
        error = current[:, fixed] - matrix.double()[:, fixed]
        change = torch.linalg.solve(moments[free][:, free], moments[free][:, fixed] @ error.T)
        current[:, free] = matrix.double()[:, free] - change.T
    assert torch.equal(steps, wanted)


def test_without_correlation_it_is_rounding_to_nearest() -> None:
    form = IntGrid(4, 16)
    matrix, _ = problem(7, 40)
    result = round_matrix(matrix, torch.eye(40), form, FLOAT, asked("gptq"))
    assert torch.allclose(value(result, form, 40), nearest(matrix, full_range(matrix, form), form))


TWO_OUTWEIGH = torch.block_diag(torch.full((2, 2), 1e12), torch.eye(38))


@pytest.mark.parametrize(
    "gram",
    [torch.zeros(40, 40), torch.ones(40, 40), torch.eye(40) * 1e-20, TWO_OUTWEIGH],
)
def test_degenerate_moments_give_finite_codes(gram: Tensor) -> None:
    form = IntGrid(3, 16)
    matrix, _ = problem(7, 40)
    tensors = round_matrix(matrix, gram, form, FLOAT, asked("gptq", True, 2))
    assert int(form.codes(tensors, 40).max()) < form.levels
    assert form.fault(tensors) is None


@settings(max_examples=40, deadline=None)
@given(
    bits=st.sampled_from([2, 3, 4]),
    group_size=st.sampled_from([-1, 8, 16, 24]),
    symmetric=st.booleans(),
    columns=st.integers(9, 70),
    seed=st.integers(0, 99),
)
def test_every_step_lowers_the_loss(
    bits: int, group_size: int, symmetric: bool, columns: int, seed: int
) -> None:
    """Ranges: for each group. Descent: for the matrix. Codes stay on the grid."""
    form = IntGrid(bits, group_size, symmetric)  # type: ignore[arg-type]  # drawn from BITS
    matrix, gram = problem(6, columns, seed)
    full, clipped = full_range(matrix, form), search_ranges(matrix, gram, form, FLOAT)
    width = form.width(columns)
    blocks = group_blocks(gram, width, form.groups(columns))

    def by_group(grid: Grid) -> Tensor:
        error = nearest(matrix, grid, form) - matrix
        missing = blocks.shape[0] * blocks.shape[1] - columns
        error = torch.nn.functional.pad(error, (0, missing))
        error = error.reshape(6, blocks.shape[0], -1).transpose(0, 1)
        return ((error @ blocks) * error).sum(-1)

    assert bool((by_group(clipped) <= by_group(full) * 1.0001 + 1e-6).all())

    grid = clipped.turned()
    steps = compensate(matrix, gram, grid, width)
    moments = conditioned(gram)
    before = loss(grid.columns(width, columns).value(steps.T).T - matrix, moments)
    better = descend(matrix, steps, gram, grid, width, sweeps=2, damping=0.01)
    after = loss(grid.columns(width, columns).value(better.T).T - matrix, moments)
    assert after <= before * 1.0001
    codes = better - grid.columns(width, columns).low.T
    assert torch.equal(codes, codes.round().clamp(0, form.quant_max))


@pytest.mark.parametrize("columns", [16, 64])
def test_no_row_is_left_far_from_its_nearest_values(columns: int) -> None:
    """Ranges are chosen for the nearest values; where inputs have one main direction, the error of
    these vanishes by chance, and a short range has no room for what is compensated."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4 * columns, columns, generator=generator) + 10
    gram, matrix = x.T @ x / len(x), torch.randn(1024, columns, generator=generator)
    form = IntGrid(4, -1)
    grid = search_ranges(matrix, gram, form, FLOAT).turned()
    whole = grid.columns(columns, columns)
    rounded, plain = compensate(matrix, gram, grid, columns).T, whole.nearest(matrix.T)
    errors = [whole.value(steps) - matrix.T for steps in (rounded, plain)]
    found, least = (((gram @ error) * error).sum(0) for error in errors)
    assert bool((found <= 4.01 * least).all())
    assert found.sum() < least.sum()


def test_compensation_and_descent_pay_on_correlated_inputs() -> None:
    form = IntGrid(4, 16)
    matrix, gram = problem(64, 96)
    losses = [
        loss(value(round_matrix(matrix, gram, form, FLOAT, how), form, 96) - matrix, gram)
        for how in (asked(), asked(clip=True), asked("gptq"), asked("gptq", True, 1))
    ]
    assert losses[1] < losses[0]
    assert losses[2] < 0.7 * losses[0]
    assert losses[3] < 0.9 * losses[2]


def test_scales_keep_to_their_dtype() -> None:
    form = IntGrid(4, 16)
    matrix, gram = problem(8, 64)
    half = torch.float16
    scale = round_matrix(matrix, gram, form, half, asked("gptq", True, 2))["scale"]
    assert torch.equal(scale, scale.half().float())


@pytest.mark.parametrize(
    ("columns", "group_size", "symmetric"),
    [(96, 32, False), (100, 32, False), (100, -1, True), (64, 64, True), (7, 1, False)],
)
def test_where_nothing_is_known_all_columns_count_alike(
    columns: int, group_size: int, symmetric: bool
) -> None:
    """Without a matrix of all columns: a kernel over 65536 of them leaves no room for one."""
    form = IntGrid(4, group_size, symmetric)
    matrix, _ = problem(5, columns, 0)
    found, _ = least_error(matrix, form, FLOAT)
    wanted = search_ranges(matrix, torch.eye(columns), form, FLOAT)
    assert torch.equal(found.low, wanted.low)
    assert torch.equal(found.high, wanted.high)
    assert torch.equal(found.scale, wanted.scale)
    wide = torch.randn(2, 2**18)
    assert least_error(wide, IntGrid(4, -1), FLOAT)[0].low.shape == (2, 1)
