"""Group norms are exact in onnxruntime, whatever the mean and the size."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from awqc.capture.module import capture_module
from awqc.export.onnx import export_onnx
from tests.export.quantizing import run_onnx


class Normed(nn.Module):
    """A norm behind a constant, as a sum of many features is."""

    def __init__(self, mean: float, affine: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm = nn.GroupNorm(4, 8, eps=1e-6, affine=affine)
        if affine:
            nn.init.normal_(self.norm.weight)
            nn.init.normal_(self.norm.bias)
        self.mean = mean

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.norm(x + self.mean)
        return made


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("mean", [0.0, 300.0])
@pytest.mark.parametrize("size", [(1, 1), (3, 5), (16, 24)])
def test_the_mean_is_taken_off_before_squaring(
    affine: bool, mean: float, size: tuple[int, int], tmp_path: Path
) -> None:
    model = Normed(mean, affine)
    program = capture_module(model, (torch.randn(2, 8, 6, 7),), dynamic={"x": [2, 3]})
    export_onnx(program, tmp_path / "model.onnx")
    x = torch.randn(3, 8, *size)
    (found,) = run_onnx(tmp_path / "model.onnx", {"x": x})
    with torch.no_grad():
        wanted = model.double().norm((x + mean).double())
    # Of two values near each other the deviation is small, and rounding is divided by it.
    near = 1e-2 if size == (1, 1) else 1e-3 if mean else 1e-4
    assert float((found - wanted).abs().max()) < near


@pytest.mark.parametrize("shape", [(3, 8), (3, 8, 5), (2, 8, 3, 4, 5)])
def test_any_number_of_axes(shape: tuple[int, ...], tmp_path: Path) -> None:
    model = Normed(0.0, True)
    program = capture_module(model, (torch.randn(shape),))
    export_onnx(program, tmp_path / "model.onnx")
    x = torch.randn(5, *shape[1:])
    (found,) = run_onnx(tmp_path / "model.onnx", {"x": x})
    with torch.no_grad():
        torch.testing.assert_close(found, model(x), atol=1e-4, rtol=1e-4)
