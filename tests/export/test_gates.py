"""Gates far below zero keep their digits in onnxruntime, where they show."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

from awqc.capture.module import capture_module
from awqc.export.onnx import export_onnx
from tests.export.quantizing import run_onnx

Form = Callable[[Tensor, nn.Module], Tensor]


class Gated(nn.Module):
    """Channels that are weighed by a sigmoid of what is far below zero."""

    def __init__(self, form: Form, norm: nn.Module) -> None:
        super().__init__()
        self.form, self.norm = form, norm

    def forward(self, x: Tensor) -> Tensor:
        return self.form(x, self.norm)


def far(x: Tensor) -> Tensor:
    """Values between -20 and -10."""
    return x.tanh() * 5 - 15


def of_channels(x: Tensor, norm: nn.Module) -> Tensor:
    made: Tensor = norm(x * far(x.mean((2, 3), keepdim=True)).sigmoid())
    return made


def of_each(x: Tensor, norm: nn.Module) -> Tensor:
    made: Tensor = norm(x * far(x).sigmoid())
    return made


def in_another_shape(x: Tensor, norm: nn.Module) -> Tensor:
    made: Tensor = norm((far(x).sigmoid() * x).permute(0, 2, 3, 1))
    return made


FORMS = [
    (of_channels, nn.Identity()),
    (of_channels, nn.GroupNorm(2, 8, eps=1e-20)),
    (of_each, nn.InstanceNorm2d(8, eps=1e-20)),
    (in_another_shape, nn.LayerNorm(8, eps=1e-20)),
]


@pytest.mark.parametrize(("form", "norm"), FORMS)
def test_small_values_keep_their_digits(form: Form, norm: nn.Module, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Gated(form, norm).eval()
    program = capture_module(model, (torch.randn(2, 8, 6, 7),), dynamic={"x": [0, 2, 3]})
    export_onnx(program, tmp_path / "model.onnx")
    x = torch.randn(3, 8, 5, 9)
    (found,) = run_onnx(tmp_path / "model.onnx", {"x": x})
    with torch.no_grad():
        wanted = model.double()(x.double())
    # onnxruntime's Sigmoid is off by half at -16.
    assert float(((found - wanted).abs() / wanted.abs().clamp(min=1e-30)).median()) < 1e-5


def test_other_gates_stay_one_operation(tmp_path: Path) -> None:
    model = Gated(lambda x, norm: norm(x * x.sigmoid() + x), nn.LayerNorm(7)).eval()
    program = capture_module(model, (torch.randn(2, 8, 6, 7),))
    export_onnx(program, tmp_path / "model.onnx")
    nodes = [node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node]
    assert "Sigmoid" in nodes
    assert "Exp" not in nodes
