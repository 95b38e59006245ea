"""What the user is told of a verified model."""

from __future__ import annotations

import pytest
import torch

from awqc.runtimes.base import Kernels, find_runtime, runtime_names
from awqc.verify.comparison import Comparison
from awqc.verify.gaps import Gaps
from awqc.verify.notes import notes_on


def compared(runtime: str, rel: float) -> Comparison:
    exact, default = ({"max_abs": 1.0, "rel": value} for value in (1e-6, rel))
    kernels = Kernels(3, (), (), "int8 activations")
    return Comparison(runtime, "onnx", "cpu", exact, default, None, kernels, None)


def cost(rel: float) -> Gaps:
    gaps = Gaps()
    gaps.add("y", torch.ones(2, 3) * (1 + rel), torch.ones(2, 3))
    return gaps


@pytest.mark.parametrize("runtime", runtime_names())
def test_a_session_that_loses_much_is_told_with_what_to_do(runtime: str) -> None:
    assert list(notes_on(cost(0.1), [compared(runtime, 0.04)])) == []
    (note,) = notes_on(cost(0.1), [compared(runtime, 0.071)])
    assert note == (
        f"the onnx form in {runtime}, in a session that sets nothing (int8 activations), is off by "
        f"7.1%; {find_runtime(runtime).EXACT_ADVICE}"
    )


def test_a_model_of_which_little_is_left_is_told() -> None:
    (note,) = notes_on(cost(0.75), [])
    assert note.startswith("the quantized outputs differ from the original's by 75%: little is ")
