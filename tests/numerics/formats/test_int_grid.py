"""Rounding and packing against a reference in NumPy, on usual and on hostile weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from awqc.errors import UsageError
from awqc.numerics.formats.base import from_groups, to_groups
from awqc.numerics.formats.int_grid import BITS, IntGrid, dequantize_packed, resolve_group_size
from awqc.numerics.packing import pack, unpack
from awqc.numerics.quantizing import fake_quantize, quantize

GROUPS = st.sampled_from([-1, 1, 3, 16, 32, 48, 64, 128])
Array = NDArray[np.float64]


def reference_codes(weight: Tensor, g: IntGrid, scale: Tensor) -> NDArray[np.int64]:
    """Codes of each row and group, one at a time, from the scales; float32 as the definition."""
    w, s = weight.float().numpy(), scale.float().numpy()
    rows, columns = w.shape
    width = columns if g.group_size == -1 else g.group_size
    codes = np.zeros((rows, columns), dtype=np.int64)
    for row in range(rows):
        for group, start in enumerate(range(0, columns, width)):
            part = w[row, start : start + width]
            zero = reference_zero(part, g, s[row, group])
            code = np.rint(part / s[row, group]) + zero
            codes[row, start : start + width] = np.clip(code, 0, 2**g.bits - 1)
    return codes


def reference_zero(part: NDArray[np.float32], g: IntGrid, scale: np.float32) -> int:
    if g.symmetric:
        return int(2 ** (g.bits - 1))
    return int(np.clip(np.rint(-min(part.min(), np.float32(0)) / scale), 0, 2**g.bits - 1))


def reference_scale(part: NDArray[np.float32], g: IntGrid) -> float:
    low, high = min(float(part.min()), 0.0), max(float(part.max()), 0.0)
    if g.symmetric:
        half = 2 ** (g.bits - 1)
        return float(max(-low / half, high / (half - 1)))
    steps: int = 2**g.bits - 1
    return (high - low) / steps


@st.composite
def cases(draw: st.DrawFn) -> tuple[Tensor, IntGrid]:
    """A weight with 1 to 150 columns, and any granularity."""
    rows, columns = draw(st.integers(1, 5)), draw(st.integers(1, 150))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    weight = torch.randn(rows, columns, generator=generator) * 10.0 ** draw(st.integers(-3, 3))
    weight += draw(st.sampled_from([0.0, 5.0, -5.0]))
    bits = draw(st.sampled_from(BITS))
    return weight, IntGrid(bits, draw(GROUPS), draw(st.booleans()))


@settings(max_examples=80, deadline=None)
@given(cases())
def test_codes_are_those_of_the_reference(case: tuple[Tensor, IntGrid]) -> None:
    weight, g = case
    found = quantize(weight, weight.shape[0], g)
    columns = weight.shape[1]
    width = columns if g.group_size == -1 else g.group_size
    for row in range(weight.shape[0]):
        for group, start in enumerate(range(0, columns, width)):
            part = weight[row, start : start + width].numpy()
            # The scale is computed in float32: two roundings, 1.2e-7, of a division and a sum.
            assert float(found.tensors["scale"][row, group]) == pytest.approx(
                reference_scale(part, g), rel=4e-7, abs=1.2e-38
            )
            if "zero_point" in found.tensors:
                scale = np.float32(found.tensors["scale"][row, group].item())
                zero = reference_zero(part, g, scale)
                assert int(found.tensors["zero_point"][row, group]) == zero
    assert np.array_equal(found.codes.numpy(), reference_codes(weight, g, found.tensors["scale"]))


@settings(max_examples=80, deadline=None)
@given(cases(), st.sampled_from([torch.float32, torch.float16, torch.bfloat16]))
def test_all_ways_to_dequantize_agree(case: tuple[Tensor, IntGrid], dtype: torch.dtype) -> None:
    weight, g = case[0].to(dtype), case[1]
    q = quantize(weight, weight.shape[0], g)
    direct = q.dequantize()
    packed = pack(q.codes, g.storage_bits)
    again = dequantize_packed(
        packed, q.tensors["scale"], q.tensors.get("zero_point"), list(q.shape), g.bits, g.group_size
    )
    assert direct.dtype == dtype
    assert torch.equal(direct, again)
    # fake_quantize stays in float32; the product (code - zero) * scale rounds once to dtype.
    fake = fake_quantize(weight, g, dtype).to(dtype)
    assert torch.equal(direct, fake)


@settings(max_examples=60, deadline=None)
@given(cases())
def test_error_is_at_most_half_a_step(case: tuple[Tensor, IntGrid]) -> None:
    weight, g = case
    q = quantize(weight, weight.shape[0], g)
    error = to_groups((q.dequantize() - weight).abs(), g)
    step = q.tensors["scale"].unsqueeze(-1)
    # A value at the end of the range may lie beyond the last code by the rounding of the zero
    # point, half a step; elsewhere half a step is all. 1e-5: float32 rounding of the steps.
    limit = 0.5 if g.symmetric else 1.0
    assert bool((error <= step * limit * (1 + 1e-5) + weight.abs().max() * 1e-6).all())


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([2, 4, 8]), st.integers(1, 6), st.integers(1, 40), st.integers(0, 2**16))
def test_pack_and_unpack_are_inverse(bits: int, rows: int, columns: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 2**bits, (rows, columns), generator=generator, dtype=torch.uint8)
    packed = pack(codes, bits)
    assert packed.shape == (rows, -(-columns * bits // 8))
    assert torch.equal(unpack(packed, bits, columns), codes)


def test_the_first_code_sits_in_the_lowest_bits() -> None:
    assert pack(torch.tensor([[1, 2, 3]], dtype=torch.uint8), 4).tolist() == [[0x21, 0x03]]
    assert pack(torch.tensor([[1, 2, 3, 0, 1]], dtype=torch.uint8), 2).tolist() == [[0b111001, 1]]
    assert pack(torch.tensor([[255, 7]], dtype=torch.uint8), 8).tolist() == [[255, 7]]


@settings(max_examples=40, deadline=None)
@given(cases())
def test_groups_keep_the_order_and_pad_without_new_extremes(
    case: tuple[Tensor, IntGrid],
) -> None:
    weight, g = case
    grouped = to_groups(weight, g)
    assert grouped.shape[-2] == g.groups(weight.shape[1])
    assert torch.equal(from_groups(grouped, weight.shape[1]), weight)
    last = weight[:, (g.groups(weight.shape[1]) - 1) * g.width(weight.shape[1]) :]
    assert torch.equal(grouped[:, -1].amax(-1), last.amax(-1))
    assert torch.equal(grouped[:, -1].amin(-1), last.amin(-1))


HOSTILE: dict[str, Any] = {
    "zeros": lambda m: torch.zeros(3, 40),
    "constant": lambda m: torch.full((3, 40), 0.37),
    "negative constant": lambda m: torch.full((3, 40), -2.5),
    "one outlier": lambda m: torch.cat([torch.full((3, 39), 1e-3), torch.full((3, 1), 1e4)], 1),
    "denormals": lambda m: torch.full((3, 40), 2e-39),
    "smallest half": lambda m: torch.full((3, 40), 6e-8),
    "largest": lambda m: torch.full((3, 40), m),
    "both ends": lambda m: torch.tensor([m, -m]).repeat(3, 20),
    "top heavy": lambda m: torch.tensor([m, -m / 3, 0.0, m / 9]).repeat(3, 10),
    "bottom heavy": lambda m: torch.tensor([-m, 0.9 * m]).repeat(3, 20),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("kind", list(HOSTILE))
def test_hostile_weights_stay_finite_and_near(
    kind: str, symmetric: bool, bits: Any, dtype: torch.dtype
) -> None:
    largest = torch.finfo(dtype).max
    weight = HOSTILE[kind](largest).to(dtype)
    q = quantize(weight, 3, IntGrid(bits, 16, symmetric))
    restored = q.dequantize()
    assert bool(torch.isfinite(restored).all())
    assert bool((q.tensors["scale"] > 0).all())
    # No denormal scales: kernels may flush them to zero.
    assert bool((q.tensors["scale"] >= torch.finfo(dtype).tiny).all())
    error = to_groups((restored.double() - weight.double()).abs(), q.format)
    # One step, plus what the cap that keeps codes finite takes off the far end: a scale of
    # max / midpoint reaches (midpoint - 1) steps, so up to one step more.
    assert bool((error <= 2.01 * q.tensors["scale"].double().unsqueeze(-1)).all())


@pytest.mark.parametrize("symmetric", [False, True])
def test_zero_weights_stay_exactly_zero(symmetric: bool) -> None:
    weight = torch.randn(4, 64)
    weight[:, ::3] = 0
    weight[2] = 0
    for bits in BITS:
        restored = quantize(weight, 4, IntGrid(bits, 32, symmetric)).dequantize()
        assert bool((restored[:, ::3] == 0).all())
        assert bool((restored[2] == 0).all())


def test_an_outlier_costs_only_its_own_group() -> None:
    weight = torch.randn(2, 64)
    hurt = weight.clone()
    hurt[0, 40] = 1e6
    g = IntGrid(4, 32)
    plain, spoiled = (quantize(w, 2, g).dequantize() for w in (weight, hurt))
    assert torch.equal(plain[1], spoiled[1])
    assert torch.equal(plain[0, :32], spoiled[0, :32])


def test_scales_of_half_models_are_rounded_before_the_codes() -> None:
    weight = torch.randn(4, 64).half()
    q = quantize(weight.float(), 4, IntGrid(4, 32), torch.float16)
    assert torch.equal(q.tensors["scale"], q.tensors["scale"].half().float())
    assert torch.equal(q.codes, quantize(weight, 4, IntGrid(4, 32)).codes)


@pytest.mark.parametrize(
    ("asked", "columns", "expected"),
    [("auto", 576, 64), ("auto", 256, 128), ("auto", 96, 32), ("auto", 100, 32), ("auto", 20, -1),
     (64, 576, 64), (64, 64, -1), (128, 100, -1), (-1, 100, -1), (48, 100, 48)],
)  # fmt: skip
def test_group_size(asked: int | str, columns: int, expected: int) -> None:
    assert resolve_group_size(asked, columns) == expected


@pytest.mark.parametrize("asked", [0, -2, "large", "64"])
def test_unusable_group_sizes_are_refused(asked: int | str) -> None:
    with pytest.raises(UsageError, match="group size"):
        resolve_group_size(asked, 64)


def test_bytes_count_codes_scales_and_zero_points() -> None:
    q = quantize(torch.randn(6, 50), 6, IntGrid(4, 16))
    assert q.nbytes == 6 * 25 + 6 * 4 * 4 + 6 * 4 // 2
    assert quantize(torch.randn(6, 50), 6, IntGrid(3, 16)).nbytes == q.nbytes
    assert quantize(torch.randn(6, 50), 6, IntGrid(4, 16, True)).nbytes == q.nbytes - 12
