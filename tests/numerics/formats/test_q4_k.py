"""Q4_K against GGUF's own reader, and what every format must do, in it."""

from __future__ import annotations

import pytest
import torch
from gguf import GGMLQuantizationType
from gguf.quants import dequantize as read_blocks
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from awqc.errors import UsageError
from awqc.numerics.formats.base import QuantizedWeight, to_groups
from awqc.numerics.formats.found import named_format
from awqc.numerics.formats.q4_k import (
    Q4K,
    gguf_blocks,
    pack_codes,
    pack_scales,
    unpack_codes,
    unpack_scales,
)
from awqc.numerics.quantizing import fake_quantize, quantize, whole_range
from awqc.numerics.request import QuantizationSpec
from awqc.numerics.rounding.gram import loss
from awqc.numerics.rounding.methods import round_matrix
from awqc.weights.tuning.dequantize import dequantize

FORM = Q4K()
HALVES = [torch.float32, torch.float16, torch.bfloat16]


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
    blocks = gguf_blocks(weight).numpy()
    assert blocks.shape == (weight.rows, weight.columns // 256 * 144)
    return torch.from_numpy(read_blocks(blocks, GGMLQuantizationType.Q4_K))


@settings(max_examples=40, deadline=None)
@given(weights(), st.sampled_from(HALVES))
def test_the_bytes_give_the_same_floats_in_ggufs_reader(weight: Tensor, dtype: torch.dtype) -> None:
    """Scales fit ``dtype`` as well, so that a half model holds the very factors of the file."""
    stored = quantize(weight, len(weight), FORM, dtype)
    wanted = read(stored)
    assert torch.equal(stored.dequantize(), wanted)
    assert torch.equal(stored.to(dtype).dequantize(), wanted.to(dtype))
    assert torch.equal(fake_quantize(weight, FORM, dtype), wanted)
    assert torch.equal(stored.some(0, 1), wanted[:1])


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 4), st.integers(1, 3), st.integers(0, 2**16))
def test_any_bytes_mean_what_they_mean_in_gguf(rows: int, supers: int, seed: int) -> None:
    """Codes, scales and minima that no weight of ours would give, and back."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(most: int, *shape: int) -> Tensor:
        return torch.randint(0, most, (rows, *shape), generator=generator, dtype=torch.uint8)

    codes, scales, minima = drawn(16, supers * 256), drawn(64, supers * 8), drawn(64, supers * 8)
    factors = torch.rand(2, rows, supers, generator=generator).half().float()
    tensors = {
        "packed": pack_codes(codes),
        "block_scales": pack_scales(scales, minima),
        "d": factors[0],
        "dmin": factors[1],
    }
    assert torch.equal(unpack_codes(tensors["packed"]).flatten(1), codes)
    found = [part.flatten(1) for part in unpack_scales(tensors["block_scales"])]
    assert torch.equal(found[0], scales)
    assert torch.equal(found[1], minima)
    stored = QuantizedWeight(FORM, tensors, (rows, supers * 256))
    assert torch.equal(stored.dequantize(), read(stored))
    assert {role: tuple(t.shape) for role, t in tensors.items()} == FORM.layout(rows, supers * 256)
    assert FORM.nbytes(rows, supers * 256, torch.float16) == gguf_blocks(stored).numel()


@settings(max_examples=30, deadline=None)
@given(weights())
def test_every_code_is_the_nearest_of_its_block(weight: Tensor) -> None:
    """The oracle looks at all sixteen values of the block, in float64."""
    stored = quantize(weight, len(weight), FORM)
    grid, grouped = whole_range(weight, FORM, torch.float32)
    spread = grid.spread()
    values = torch.stack(
        [spread.value(torch.full_like(grouped, float(step))) for step in range(16)], dim=-1
    ).double()
    distance = (values - grouped.double().unsqueeze(-1)).abs()
    chosen = to_groups(stored.codes.long(), FORM).unsqueeze(-1)
    got = distance.gather(-1, chosen).squeeze(-1)
    # The step is worked out in float32: a value half way between two may go to either.
    slack = 1e-5 * grid.scale.double().unsqueeze(-1)
    assert bool((got <= distance.amin(-1) + slack).all())


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("size", [0.0, 1e-9, 6e-8, 1e-4, 6e4])
def test_hostile_weights_stay_finite_and_near(size: float, dtype: torch.dtype) -> None:
    weight = torch.full((3, 256), size)
    weight[1] *= -1
    weight[2, ::2] *= -1
    stored = quantize(weight, 3, FORM, dtype).to(dtype)
    assert bool(stored.dequantize().isfinite().all())
    assert FORM.fault(stored.tensors) is None
    error = (stored.dequantize().float() - weight).abs()
    # 1/63 of the range for a minimum or scale of six bits, a step of 2^-24 where that is larger.
    assert bool((error <= max(0.1 * size, 2e-6)).all())


def problem(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(256, 256, generator=generator) / 16 + torch.eye(256)
    x = torch.randn(1024, 256, generator=generator) @ mixing
    x[:, 0] *= 8
    return torch.randn(48, 256, generator=generator), x.T @ x / len(x)


def test_ranges_compensation_and_descent_lower_the_loss() -> None:
    matrix, gram = problem()

    def lost(**how: object) -> float:
        spec = QuantizationSpec(**how)  # type: ignore[arg-type]  # any fields of it
        tensors = round_matrix(matrix, gram, FORM, torch.float32, spec)
        stored = QuantizedWeight(FORM, tensors, tuple(matrix.shape))
        assert torch.equal(stored.dequantize(), read(stored))
        return loss(stored.dequantize() - matrix, gram)

    nearest, clipped, gptq = lost(), lost(clip=True), lost(rounding="gptq")
    assert clipped < 0.95 * nearest
    assert gptq < 0.75 * nearest
    assert lost(rounding="gptq", sweeps=2) < 0.95 * gptq


def test_gradients_flow_to_the_factors() -> None:
    """Against differences: the value is linear in each factor."""
    stored = quantize(torch.randn(3, 512), 3, FORM)
    upstream = torch.randn(3, 512)
    tuned = {role: stored.tensors[role].clone().requires_grad_() for role in FORM.tunable}
    dequantize(stored, tuned).backward(upstream)
    for role, value in tuned.items():
        moved = stored.with_tensors({role: value.detach() * 2}).dequantize()
        change = ((moved - stored.dequantize()) * upstream).reshape(3, 2, 256).sum(-1)
        assert value.grad is not None
        torch.testing.assert_close(value.grad * value.detach(), change, rtol=1e-3, atol=1e-3)


def test_columns_and_names_that_do_not_fit_are_told() -> None:
    assert FORM.why_not(512) is None
    for columns in (0, 32, 300):
        assert "256" in str(FORM.why_not(columns))
    assert named_format("Q4_K") == FORM
    with pytest.raises(UsageError, match="weight format 'Q9' is unknown; choose Q4_K"):
        named_format("Q9")
