"""Rounding is proved row by row: what it does right passes, and small faults of it do not."""

from __future__ import annotations

import pytest
import torch

from awqc.errors import InvariantError
from awqc.graph.linears import find_linears
from awqc.numerics.formats.base import WeightFormat
from awqc.numerics.formats.found import NAMED
from awqc.numerics.formats.int_grid import IntGrid
from awqc.numerics.packing import pack
from awqc.numerics.quantizing import quantize
from awqc.program import Program
from awqc.weights.rounding_error import measure
from awqc.weights.rounding_proof import check_rows, nearest_values, prove_rounding
from tests.elsewhere import ELSEWHERE, Elsewhere
from tests.tiny import captured, run

ROUNDED = "canonicalize,insert-observers{gram=true},calibrate"
FORMATS = [IntGrid(bits, 16, symmetric) for bits in (2, 3, 4, 8) for symmetric in (True, False)]


@pytest.mark.parametrize("form", [*FORMATS, *NAMED.values()], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_rounding_to_nearest_gives_the_nearest_values(
    form: WeightFormat, dtype: torch.dtype
) -> None:
    matrix = torch.randn(6, 256, generator=torch.Generator().manual_seed(0))
    held = quantize(matrix, 6, form, dtype).to(torch.float32)
    least = (nearest_values(held, matrix) - matrix).square().sum(-1)
    found = (held.dequantize() - matrix).square().sum(-1)
    torch.testing.assert_close(found, least, rtol=1e-3, atol=1e-12)


@pytest.fixture
def calibrated() -> Program:
    return run(captured("gated"), ROUNDED)


@pytest.mark.parametrize("share", [0.1, 0.01])
def test_wrong_codes_are_found(calibrated: Program, share: float) -> None:
    for linear in find_linears(calibrated.graph):
        weight = calibrated.weight(linear.weight_name)
        good = quantize(weight, len(weight), IntGrid(4, 16), torch.float32)
        prove_rounding(calibrated, linear.weight_name, linear, good)
        codes = good.codes.flatten().clone()
        wrong = torch.randperm(len(codes))[: int(share * len(codes))]
        codes[wrong] ^= 8
        bad = good.with_tensors({"packed": pack(codes.reshape(good.codes.shape), 4)})
        with pytest.raises(InvariantError, match=rf"{linear.weight_name}: rounding leaves"):
            prove_rounding(calibrated, linear.weight_name, linear, bad)


def test_two_rows_that_changed_places_are_found(calibrated: Program) -> None:
    linear = find_linears(calibrated.graph)[0]
    weight = calibrated.weight(linear.weight_name)
    good = quantize(weight, len(weight), IntGrid(8, -1), torch.float32)
    order = [1, 0, *range(2, len(weight))]
    bad = good.with_tensors({role: tensor[order] for role, tensor in good.tensors.items()})
    with pytest.raises(InvariantError):
        prove_rounding(calibrated, linear.weight_name, linear, bad)


def test_a_row_is_named() -> None:
    least = torch.ones(100)
    check_rows("w", least, least)
    errors = least.clone()
    errors[7] = 11
    with pytest.raises(InvariantError, match="w: rounding leaves row 7 with"):
        check_rows("w", errors, least)
    check_rows("w", torch.zeros(3), torch.zeros(3))


@pytest.mark.parametrize(
    "rounding", ["nearest", "gptq", "gptq,clip=true", "gptq,sweeps=4", "gptq,sequential=true"]
)
@pytest.mark.parametrize("bits", [2, 4])
def test_no_way_of_rounding_is_refused(calibrated: Program, rounding: str, bits: int) -> None:
    spec = f"quantize-weights{{bits={bits},group-size=16,rounding={rounding}}}"
    assert run(calibrated, spec).findings.quantized


def test_another_device_finds_the_same(calibrated: Program) -> None:
    linear = find_linears(calibrated.graph)[0]
    name, weight = linear.weight_name, calibrated.weight(linear.weight_name)
    here = quantize(weight, len(weight), IntGrid(4, 16))
    with Elsewhere() as away:
        good = quantize(weight, len(weight), IntGrid(4, 16), device=ELSEWHERE)
        assert away.arrived == [weight.numel()]
        prove_rounding(calibrated, name, linear, good, ELSEWHERE)
        found = measure(calibrated, name, linear, good, ELSEWHERE)
        bad = good.with_tensors({"packed": good.tensors["packed"] ^ 0x88})
        with pytest.raises(InvariantError, match=f"{name}: rounding leaves"):
            prove_rounding(calibrated, name, linear, bad, ELSEWHERE)
    for role, tensor in here.tensors.items():
        assert torch.equal(good.tensors[role], tensor)
    wanted = measure(calibrated, name, linear, here)
    assert found.weight == pytest.approx(wanted.weight, rel=1e-6)
    assert found.output_sqnr_db == pytest.approx(wanted.output_sqnr_db, rel=1e-5)
