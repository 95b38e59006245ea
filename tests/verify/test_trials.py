"""What is wrong at other sizes alone is found, and told with its form, sizes and output."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn

from awqc import compile as awqc_compile
from awqc.capture.module import capture_module
from awqc.errors import VerificationError
from awqc.export.formats import FORMATS
from awqc.passes.pipeline import DEFAULT
from awqc.verify.limits import check_limits
from awqc.verify.reference import take_reference
from awqc.verify.trials import quantized_trials, take_trials
from awqc.verify.verification import verify
from tests.tiny import calibration, captured, run


class TwoOutputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(16, 32), nn.Linear(32, 8)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.relu(self.a(x))
        return self.b(h).mean(1), h


def two_outputs() -> nn.Module:
    torch.manual_seed(0)
    return TwoOutputs().eval()


def divide_by(model: onnx.ModelProto, axis: int, example: int) -> None:
    """Let the first output be right at size ``example`` of ``axis`` alone."""
    name = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = ["honest" if each == name else each for each in node.output]
    size = numpy_helper.from_array(np.array(example, np.float32), "example")
    model.graph.initializer.append(size)
    model.graph.node.extend([
        helper.make_node("Shape", [model.graph.input[0].name], ["size"], start=axis, end=axis + 1),
        helper.make_node("Cast", ["size"], ["float"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Div", ["float", "example"], ["factor"]),
        helper.make_node("Mul", ["honest", "factor"], [name]),
    ])  # fmt: skip


@pytest.mark.parametrize(("axis", "example"), [(0, 4), (1, 5)])
def test_a_form_that_is_right_at_the_examples_size_alone_is_found(
    axis: int, example: int, tmp_path: Path
) -> None:
    program = capture_module(two_outputs(), (torch.randn(4, 5, 16),), dynamic={"x": [1]})
    data = calibration(program)
    reference, trials = take_reference(program, data), take_trials(program)
    assert len(trials) == 3
    run(program, DEFAULT, data)
    FORMATS["onnx"](program, tmp_path, {})

    def check() -> None:
        found = verify(program, reference, tmp_path, provider="cpu", trials=trials)
        check_limits(found, torch.float32, None, "model")

    check()
    model = onnx.load(tmp_path / "model.onnx")
    divide_by(model, axis, example)
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(VerificationError) as caught:
        check()
    assert f"axis {axis} of x = " in str(caught.value)
    assert "the onnx form in onnxruntime differs from the quantized model" in str(caught.value)
    assert f"in the output {program.outputs[0]!r}; rounding explains 0.001" in str(caught.value)


def test_a_quantized_model_that_is_wrong_at_other_sizes_is_found() -> None:
    program = captured("mlp")
    trials = take_trials(program)
    assert [len(quantized_trials(program, trials, 0.0)), len(trials)] == [2, 2]
    (result,) = program.graph.find_nodes(op="output")[0].all_input_nodes
    x = program.graph.find_nodes(op="placeholder")[0]
    with program.graph.inserting_after(result):
        rows = program.graph.call_function(torch.ops.aten.sym_size.int, (x, 0))
    with program.graph.inserting_after(rows):
        scaled = program.graph.call_function(torch.ops.aten.mul.Tensor, (result, rows))
    result.replace_all_uses_with(scaled, lambda user: user is not scaled)
    program.graph_module.recompile()
    with pytest.raises(VerificationError, match=r"with axis 0 of \w+ = \d+ differs from the orig"):
        quantized_trials(program, trials, 0.0)


class Largest(nn.Module):
    """Where the largest elements are has no ONNX form at every size."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        values, places = nn.functional.adaptive_max_pool2d(self.conv(x), 2, return_indices=True)
        return values + places


WRONG: dict[str, Callable[[], nn.Module]] = {"places of the largest": Largest}


@pytest.mark.parametrize("kind", list(WRONG))
def test_a_compile_is_refused_where_onnx_cannot_follow_a_free_size(kind: str) -> None:
    example = (torch.randn(2, 3, 16, 16),)
    awqc_compile(WRONG[kind]().eval(), example, bits=8, effort="fast", provider="cpu")
    with pytest.raises(VerificationError, match=r"axis 2 of x = 13") as caught:
        awqc_compile(
            WRONG[kind]().eval(), example, bits=8, effort="fast", provider="cpu",
            dynamic={"x": [2, 3]},
        )  # fmt: skip
    assert "the onnx form in onnxruntime" in str(caught.value)
    assert "Leave that axis out of dynamic" in str(caught.value)
