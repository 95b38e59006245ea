"""The model of onnxruntime's int8 activations against onnxruntime itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import awqc
from awqc.capture.module import capture_module
from awqc.errors import UsageError
from awqc.export.onnx import export_onnx
from awqc.numerics.ort_int8 import input_loss, round_inputs
from awqc.passes.pipeline import parse_pipeline
from awqc.runtimes.onnxruntime import DEFAULT, EXACT, Session


@pytest.mark.parametrize(("group", "width"), [(32, 32), (64, 64), (-1, 32)])
def test_it_predicts_the_error_of_a_default_session(tmp_path: Path, group: int, width: int) -> None:
    """The kernel's error, output by output; what is left is the kernel's own float rounding."""
    torch.manual_seed(0)
    model, x = nn.Linear(128, 48, bias=False), torch.randn(40, 128)
    x[:, 5] *= 20
    program = capture_module(model, (x,))
    parse_pipeline(f"canonicalize,quantize-weights{{group-size={group}}}").run(program)
    path = export_onnx(program, tmp_path / "m.onnx").path
    batch = {program.inputs[0].name: x}
    exact, default = (Session(path, "cpu", level).run(batch)[0] for level in (EXACT, DEFAULT))
    weight = program.findings.quantized["weight"].dequantize()
    predicted = (round_inputs(x, width) - x) @ weight.T
    assert float((default - exact).norm()) > 0.005 * float(exact.norm())
    assert float((default - exact - predicted).norm()) < 0.05 * float(predicted.norm())
    energy = input_loss(weight[None], x[None], None, width)
    assert energy == pytest.approx(float(predicted.square().sum()) / 40, rel=1e-4)


class Net(nn.Module):
    """An outlier channel behind a norm: the scale decides where it is felt."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.out = nn.LayerNorm(64), nn.Linear(64, 64)
        with torch.no_grad():
            self.norm.weight[3] = 60

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.out(self.norm(x))
        return out


def test_searching_for_it_leaves_less_error_in_a_default_session() -> None:
    torch.manual_seed(0)
    model, batches = Net(), [(torch.randn(64, 64),) for _ in range(10)]
    errors = {}
    for numerics in ("fp", "ort-default"):
        result = awqc.compile(
            model, batches[0], calib=batches, bits=8, group_size=32, formats=("onnx",),
            effort="fast", runtime_numerics=numerics,
        )  # fmt: skip
        session = Session(result.folder / "model.onnx", "cpu", DEFAULT)
        x = torch.randn(256, 64)
        wanted = model(x).detach()
        got = session.run({next(iter(session.inputs)).name: x})[0]
        errors[numerics] = float((got - wanted).norm() / wanted.norm())
    assert errors["ort-default"] < 0.9 * errors["fp"]


def test_the_search_needs_tokens_for_it() -> None:
    program = capture_module(Net(), (torch.randn(8, 64),))
    passes = "canonicalize,insert-observers,calibrate,search-scales{runtime-numerics=ort-default}"
    with pytest.raises(UsageError, match=r"insert-observers\{samples=64\}"):
        parse_pipeline(passes).run(program, [program.example])
