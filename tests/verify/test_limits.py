"""What must not be published."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from awqc.errors import VerificationError
from awqc.runtimes.base import Kernels
from awqc.verify.comparison import Comparison
from awqc.verify.gaps import Gaps
from awqc.verify.limits import check_limits
from awqc.verify.verification import Verification

LARGE, SMALL = torch.randn(64, 8) * 1e4, torch.randn(64, 8)


def measured(now: dict[str, Tensor], wanted: dict[str, Tensor]) -> Gaps:
    gaps = Gaps()
    for name, value in wanted.items():
        gaps.add(name, now[name], value)
    return gaps


def found(
    loss: Gaps | None = None, exact: Gaps | None = None, runtime: str = "onnxruntime"
) -> Verification:
    """A verification: fine but for what is given."""
    fine = measured({"y": SMALL * 1.01}, {"y": SMALL})
    near = (exact or measured({"y": SMALL * (1 + 1e-6)}, {"y": SMALL})).distance()
    kernels = Kernels(0, (), (), "float32")
    comparison = Comparison(runtime, "onnx", "cpu", near, near, None, kernels, None)
    return Verification((loss or fine).loss(), (comparison,), 1, None, [])


def check(verification: Verification, max_loss: float = 0.5) -> None:
    check_limits(verification, torch.float32, max_loss, "model")


def test_a_loss_beyond_the_limit_is_refused() -> None:
    check(found())
    check(found(), 0.011)
    with pytest.raises(VerificationError, match=r"is 0\.01\d* in output y .* allows 0.009"):
        check(found(), 0.009)
    # There was nothing to lose against.
    check(found().of_exports(), 0.0)


def test_no_number_is_no_limit() -> None:
    with pytest.raises(VerificationError, match="max_loss allows nan"):
        check(found(), math.nan)


def test_a_model_of_which_half_is_lost_is_refused_unless_any_loss_is_allowed() -> None:
    rows = torch.cat([SMALL[1:], SMALL[:1]])
    permuted = found(loss=measured({"y": rows}, {"y": SMALL}))
    with pytest.raises(VerificationError, match="max_loss='inf' publishes whatever the loss"):
        check(permuted)
    check(permuted, math.inf)


@pytest.mark.parametrize("name", ["large", "small"])
def test_each_output_has_its_own_limit(name: str) -> None:
    wanted = {"large": LARGE, "small": SMALL}
    with pytest.raises(VerificationError, match=f"in output {name} .error over"):
        check(found(loss=measured({**wanted, name: wanted[name] * 0.4}, wanted)))
    with pytest.raises(VerificationError, match=rf"differs from .* in output {name} by 0\.01"):
        check(found(exact=measured({**wanted, name: wanted[name] * 1.01}, wanted)))


def test_an_error_under_a_constant_is_refused() -> None:
    offset = SMALL + 1000
    check(found(exact=measured({"y": offset * (1 + 1e-7)}, {"y": offset})))
    with pytest.raises(VerificationError, match=r"in output y by 0\.01"):
        check(found(exact=measured({"y": SMALL * 1.01 + 1000}, {"y": offset})))
    lost = r"the loss against the original is 1 .*, and the output hardly varies: by 0.00\d+ of its"
    with pytest.raises(VerificationError, match=lost):
        check(found(loss=measured({"y": 0 * SMALL + offset.mean()}, {"y": offset})))
    with pytest.raises(VerificationError, match=r"allows 0\.5; use more bits"):
        check(found(loss=measured({"y": 0 * SMALL}, {"y": SMALL})))


@pytest.mark.parametrize(("part", "axis", "factor"), [("row", 0, 1.02), ("column", 1, 1.005)])
def test_one_wrong_part_among_many_is_refused(part: str, axis: int, factor: float) -> None:
    wanted = torch.randn(3000, 300)
    now = wanted.clone()
    now.select(axis, 7).mul_(factor)
    with pytest.raises(VerificationError, match=f"differs from .* in a {part} of output y by 0.0"):
        check(found(exact=measured({"y": now}, {"y": wanted})))


def test_outputs_that_are_not_finite_are_refused() -> None:
    bad = SMALL.clone()
    bad[0, 0] = math.nan
    with pytest.raises(VerificationError, match="NaN or infinite values in output y"):
        check(found(loss=measured({"y": bad}, {"y": SMALL})), math.inf)


@pytest.mark.parametrize("error", [0.01, math.inf, math.nan])
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_an_export_that_disagrees_in_any_runtime_is_refused(error: float, runtime: str) -> None:
    gaps = measured({"y": SMALL * (1 + error)}, {"y": SMALL})
    with pytest.raises(VerificationError, match=f"model: the onnx form in {runtime} differs"):
        check(found(exact=gaps, runtime=runtime))


def test_whole_numbers_may_differ_where_floats_are_equal_but_for_rounding() -> None:
    wanted = torch.arange(1000) % 7
    few, many = wanted.clone(), wanted.clone()
    few[:10], many[:11] = 9, 9
    check(found(exact=measured({"y": few}, {"y": wanted})))
    with pytest.raises(VerificationError, match=r"in the whole numbers of output y by 0\.011"):
        check(found(exact=measured({"y": many}, {"y": wanted})))
    with pytest.raises(VerificationError, match=r"the whole numbers of output y by 0\.1 "):
        check(found(exact=measured({"y": wanted[:10].roll(0) + (wanted[:10] == 3)},
                                   {"y": wanted[:10]})))  # fmt: skip


@pytest.mark.parametrize(
    "value", [torch.zeros(4, 3), torch.full((4, 3), math.nan), torch.zeros(0, 3, dtype=torch.int64)]
)
@pytest.mark.parametrize("side", ["loss", "exact"])
def test_nothing_compared_is_a_failure(value: Tensor, side: str) -> None:
    wanted = {"y": SMALL, "dead": value}
    given: dict[str, Any] = {side: measured(wanted, wanted)}
    with pytest.raises(VerificationError, match=r"output dead .*nothing was compared; .* calib"):
        check(found(**given), math.inf)
    with pytest.raises(VerificationError, match="no output: nothing was compared"):
        check(found(loss=Gaps()) if side == "loss" else found(exact=Gaps()))
