"""Pooling to a grid, rolls, chunks and splits in ONNX, at sizes other than the example's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import onnxruntime as ort
import torch
from torch import Tensor, nn

from awqc.capture.module import capture_module
from awqc.export.onnx import export_onnx
from tests.tiny import relative

F = nn.functional
FORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda a: F.adaptive_avg_pool2d(a, (2, 5)),
    "mean along one axis": lambda a: F.adaptive_avg_pool2d(a, (3, None)),
    "mean of more windows than elements": lambda a: F.adaptive_avg_pool2d(a, 40),
    "mean of lines": lambda a: F.adaptive_avg_pool1d(a.flatten(2), 7),
    "largest": lambda a: F.adaptive_max_pool2d(a, (2, 5)),
    "largest of lines": lambda a: F.adaptive_max_pool1d(a.flatten(2), 3),
    "roll": lambda a: torch.roll(a, (a.shape[2] // 2, 3), (2, 3)),
    "pieces of a free size": lambda a: torch.cat([a, a + 1, a + 2]).split(a.shape[0])[1],
    "half": lambda a: a.chunk(2, 2)[1],
    "roll of all": lambda a: torch.roll(a, a.shape[2] // 2),
    "roll back": lambda a: torch.roll(a, -(a.shape[3] // 3), 3),
}


class Applied(nn.Module):
    def __init__(self, *functions: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.functions = functions

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(function(x - 1) for function in self.functions)


def test_each_form_is_exact_at_every_size(tmp_path: Path) -> None:
    module = Applied(*FORMS.values())
    program = capture_module(module, (torch.randn(2, 3, 16, 24),), dynamic={"x": [2, 3]})
    assert all(isinstance(program.inputs[0].shape[axis], str) for axis in (0, 2, 3))
    export_onnx(program, tmp_path / "model.onnx")
    session = ort.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    for shape in ((2, 3, 16, 24), (1, 3, 32, 32), (3, 3, 7, 41), (2, 3, 2, 3)):
        x = torch.randn(shape)
        results = zip(FORMS, module(x), session.run(None, {"x": x.numpy()}), strict=True)
        for form, wanted, found in results:
            assert tuple(found.shape) == tuple(wanted.shape), form
            assert relative(torch.from_numpy(found), wanted) < 1e-6, form


def test_a_fixed_size_is_pooled_by_torchs_own_definition(tmp_path: Path) -> None:
    program = capture_module(Applied(FORMS["mean"]), (torch.randn(2, 3, 16, 25),))
    export_onnx(program, tmp_path / "model.onnx")
    kinds = {node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node}
    assert "AveragePool" in kinds
    assert "MatMul" not in kinds
