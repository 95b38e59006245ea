"""Formats of GGUF against GGUF's own reader, and what every format must do, in them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import pytest
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize as read_blocks
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from awqc.errors import UsageError
from awqc.numerics.formats.base import QuantizedWeight, to_groups
from awqc.numerics.formats.found import NAMED, named_format
from awqc.numerics.formats.ggml import GgmlFormat
from awqc.numerics.formats.ggml_blocks import (
    block_bytes,
    ggml_type,
    to_blocks,
    weight_of_blocks,
)
from awqc.numerics.formats.int_grid import IntGrid
from awqc.numerics.formats.lanes import pack_lanes, unpack_lanes
from awqc.numerics.quantizing import fake_quantize, quantize, whole_range
from awqc.numerics.request import QuantizationSpec
from awqc.numerics.rounding.gram import loss
from awqc.numerics.rounding.methods import round_matrix
from awqc.weights.tuning.dequantize import dequantize

FORMS: list[GgmlFormat] = [form for form in NAMED.values() if isinstance(form, GgmlFormat)]
HALVES = [torch.float32, torch.float16, torch.bfloat16]
each_form = pytest.mark.parametrize("form", FORMS, ids=str)


def test_all_that_ggml_has_with_scales_of_blocks_are_there() -> None:
    assert sorted(NAMED) == [
        "Q2_K", "Q3_K", "Q4_0", "Q4_1", "Q4_K", "Q5_0", "Q5_1", "Q5_K", "Q6_K", "Q8_0",
    ]  # fmt: skip


@st.composite
def weights(draw: st.DrawFn) -> Tensor:
    rows, columns = draw(st.integers(1, 4)), 256 * draw(st.integers(1, 3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    weight = torch.randn(rows, columns, generator=generator) * 10.0 ** draw(st.integers(-6, 3))
    blocks = torch.rand(rows, columns // 32, 1, generator=generator) ** 3
    uneven = (weight.reshape(rows, -1, 32) * blocks).reshape(rows, columns)
    return uneven + draw(st.sampled_from([0.0, 0.01, -0.01])) * weight.abs().max()


def read(weight: QuantizedWeight) -> Tensor:
    """What GGUF's own reader makes of the bytes."""
    kind = GGMLQuantizationType[weight.format.name]
    unit, size = GGML_QUANT_SIZES[kind]
    blocks = to_blocks(weight).numpy()
    assert blocks.shape == (weight.rows, weight.columns // unit * size)
    return torch.from_numpy(read_blocks(blocks, kind))


@each_form
@settings(max_examples=25, deadline=None)
@given(weights(), st.sampled_from(HALVES))
def test_the_bytes_give_the_same_floats_in_ggufs_reader(
    form: GgmlFormat, weight: Tensor, dtype: torch.dtype
) -> None:
    """Scales fit ``dtype`` as well, so that a half model holds the very factors of the file."""
    stored = quantize(weight, len(weight), form, dtype)
    wanted = read(stored)
    assert torch.equal(stored.dequantize(), wanted)
    assert torch.equal(stored.to(dtype).dequantize(), wanted.to(dtype))
    assert torch.equal(fake_quantize(weight, form, dtype), wanted)
    assert torch.equal(stored.some(0, 1), wanted[:1])


@each_form
@settings(max_examples=15, deadline=None)
@given(st.integers(1, 4), st.integers(1, 3), st.integers(0, 2**16))
def test_any_bytes_mean_what_they_mean_in_gguf(
    form: GgmlFormat, rows: int, supers: int, seed: int
) -> None:
    """Codes, scales and minima that no weight of ours would give."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for role, shape in form.layout(rows, supers * 256).items():
        drawn = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
        if role in form.tunable:
            drawn = torch.rand(shape, generator=generator).half().float()
        elif role in form.signed:
            drawn = drawn.view(torch.int8)
        tensors[role] = drawn
    stored = QuantizedWeight(form, tensors, (rows, supers * 256))
    assert torch.equal(stored.dequantize(), read(stored))
    assert form.nbytes(rows, supers * 256, torch.float16) == to_blocks(stored).numel()
    back = weight_of_blocks(form, to_blocks(stored), stored.shape).tensors
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[role], tensor) for role, tensor in tensors.items())


@pytest.mark.parametrize("group_size", [32, 64, -1])
@pytest.mark.parametrize("bits", [4, 8])
def test_whole_numbers_are_blocks_too(bits: Literal[4, 8], group_size: int) -> None:
    """A scale of a larger group is that of each of its blocks."""
    form = IntGrid(bits, group_size, symmetric=True)
    stored = quantize(torch.randn(5, 128), 5, form, torch.float16)
    blocks = to_blocks(stored)
    kind = GGMLQuantizationType[ggml_type(form)]
    assert torch.equal(torch.from_numpy(read_blocks(blocks.numpy(), kind)), stored.dequantize())
    assert tuple(blocks.shape) == block_bytes(form, (5, 128))
    back = weight_of_blocks(form, blocks, (5, 128)).tensors
    assert all(torch.equal(back[role], tensor) for role, tensor in stored.tensors.items())


@pytest.mark.parametrize(("lanes", "width"), [(2, 32), (2, 16), (4, 32), (8, 32), (8, 1), (4, 4)])
def test_lanes_come_back(lanes: int, width: int) -> None:
    codes = torch.randint(0, 2 ** (8 // lanes), (3, 256), dtype=torch.uint8)
    packed = pack_lanes(codes, lanes, width)
    assert packed.shape == (3, 256 // lanes)
    assert torch.equal(unpack_lanes(packed, lanes, width), codes)


@each_form
@settings(max_examples=15, deadline=None)
@given(weights())
def test_every_code_is_the_nearest_of_its_block(form: GgmlFormat, weight: Tensor) -> None:
    """The oracle looks at all values of the block, in float64."""
    stored = quantize(weight, len(weight), form)
    grid, grouped = whole_range(weight, form, torch.float32)
    spread = grid.spread()
    values = torch.stack(
        [spread.value(spread.low + float(code) + 0 * grouped) for code in range(form.levels)],
        dim=-1,
    ).double()
    distance = (values - grouped.double().unsqueeze(-1)).abs()
    chosen = to_groups(stored.codes.long(), form).unsqueeze(-1)
    got = distance.gather(-1, chosen).squeeze(-1)
    # The step is worked out in float32: a value half way between two may go to either.
    slack = 1e-5 * grid.scale.abs().double().unsqueeze(-1) + 1e-6 * weight.abs().max()
    assert bool((got <= distance.amin(-1) + slack).all())


@each_form
@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("size", [0.0, 1e-9, 6e-8, 1e-4, 6e4])
def test_hostile_weights_stay_finite_and_near(
    form: GgmlFormat, size: float, dtype: torch.dtype
) -> None:
    """Alike, all negative, and of both signs."""
    weight = torch.full((3, 256), size)
    weight[1] *= -1
    weight[2, ::2] *= -1
    stored = quantize(weight, 3, form, dtype).to(dtype)
    assert bool(stored.dequantize().isfinite().all())
    assert form.fault(stored.tensors) is None
    error = (stored.dequantize().float() - weight).abs()
    # Where zero is the middle code, the nearer end may be out of reach by a step. Scales of few
    # bits miss by their own width. A factor is no smaller than 2^-24.
    ends = 0.1 if form.two_ended else max(0.1, 1 / form.midpoint)
    assert bool((error <= max(1.01 * ends * size, form.levels * 2.0**-23)).all())


def problem(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(256, 256, generator=generator) / 16 + torch.eye(256)
    x = torch.randn(1024, 256, generator=generator) @ mixing
    x[:, 0] *= 8
    return torch.randn(48, 256, generator=generator), x.T @ x / len(x)


@each_form
def test_ranges_compensation_and_descent_lower_the_loss(form: GgmlFormat) -> None:
    matrix, gram = problem()

    def lost(**how: object) -> float:
        spec = QuantizationSpec(**how)  # type: ignore[arg-type]  # any fields of it
        tensors = round_matrix(matrix, gram, form, torch.float32, spec)
        stored = QuantizedWeight(form, tensors, tuple(matrix.shape))
        assert torch.equal(stored.dequantize(), read(stored))
        return loss(stored.dequantize() - matrix, gram)

    nearest, clipped, gptq = lost(), lost(clip=True), lost(rounding="gptq")
    # The finer the codes, the less there is to gain by cutting ends off.
    assert clipped < (0.95 if form.bits < 5 else 1.0) * nearest
    assert gptq < 0.75 * nearest
    assert lost(rounding="gptq", sweeps=2) < 0.97 * gptq


def tunable() -> Iterator[tuple[GgmlFormat, str]]:
    for form in FORMS:
        for role in form.tunable:
            yield form, role


@pytest.mark.parametrize(("form", "role"), list(tunable()), ids=lambda value: str(value))
def test_gradients_flow_to_the_factors(form: GgmlFormat, role: str) -> None:
    """Against differences: the value is linear in each factor."""
    stored = quantize(torch.randn(3, 512), 3, form)
    upstream = torch.randn(3, 512)
    tuned = {each: stored.tensors[each].clone().requires_grad_() for each in form.tunable}
    dequantize(stored, tuned).backward(upstream)
    value = tuned[role]
    moved = stored.with_tensors({role: value.detach() * 2}).dequantize()
    change = ((moved - stored.dequantize()) * upstream).reshape(3, -1, form.unit).sum(-1)
    assert value.grad is not None
    torch.testing.assert_close(value.grad * value.detach(), change, rtol=1e-3, atol=1e-3)


@each_form
def test_columns_that_do_not_fit_are_told(form: GgmlFormat) -> None:
    assert form.why_not(512) is None
    for columns in (0, 8, 300):
        assert str(form.unit) in str(form.why_not(columns))
    assert named_format(form.name) == form


def test_a_name_that_is_none_is_told() -> None:
    with pytest.raises(UsageError, match="weight format 'Q9' is unknown; choose Q2_K, Q3_K"):
        named_format("Q9")
