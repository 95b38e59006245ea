"""What must not be published."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from awqc.errors import VerificationError
from awqc.passes.pipeline import DEFAULT
from awqc.runtimes.base import Kernels
from awqc.verify.comparison import Comparison
from awqc.verify.limits import check_limits
from awqc.verify.reference import take_reference
from awqc.verify.verification import Verification, verify
from tests.tiny import calibration, captured, run


def measured(**original: float | None) -> Verification:
    program = captured("mlp")
    reference = take_reference(program, calibration(program))
    run(program, DEFAULT)
    found = verify(program, reference, None)
    assert found.original is not None
    return replace(found, original={**found.original, **original})


def test_a_loss_beyond_the_limit_is_refused() -> None:
    found = measured()
    assert found.original is not None
    loss = found.original["rel"]
    assert loss is not None
    assert 0 < loss < 1
    check_limits(found, torch.float32, None, "model")
    check_limits(found, torch.float32, loss * 1.01, "model")
    with pytest.raises(VerificationError, match="max_loss"):
        check_limits(found, torch.float32, loss * 0.99, "model")
    # There was nothing to lose against.
    check_limits(found.of_exports(), torch.float32, 0.0, "model")


def test_outputs_that_are_not_finite_are_refused() -> None:
    with pytest.raises(VerificationError, match="NaN or infinite outputs"):
        check_limits(measured(rel=math.inf), torch.float32, None, "model")


def compared(runtime: str, rel: float) -> Comparison:
    gap = {"max_abs": 1.0, "rel": rel}
    return Comparison(runtime, "onnx", "cpu", gap, gap, None, Kernels(0, (), (), "float32"), None)


@pytest.mark.parametrize("rel", [0.01, math.inf, math.nan])
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_an_export_that_disagrees_in_any_runtime_is_refused(rel: float, runtime: str) -> None:
    fine = compared("onnxruntime", 1e-6)
    check_limits(replace(measured(), comparisons=(fine,)), torch.float32, None, "model")
    found = replace(measured(), comparisons=(fine, compared(runtime, rel)))
    with pytest.raises(VerificationError, match=f"model: the onnx form in {runtime} differs"):
        check_limits(found, torch.float32, None, "model")
