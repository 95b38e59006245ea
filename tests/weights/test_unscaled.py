"""Recurrent networks and transposed convolutions: quantized, not scaled, and exported."""

from __future__ import annotations

import math
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

from awqc.compiler import compile_graph as compile_model


class Recurrent(nn.Module):
    def __init__(self, cells: nn.Module) -> None:
        super().__init__()
        self.cells, self.head = cells, nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.cells(x)[0][:, -1])
        return out


def codes_in(path: Path) -> dict[str, int]:
    """Elements of each low-bit tensor of an ONNX file."""
    tensors = onnx.load(path).graph.initializer
    low = (onnx.TensorProto.UINT4, onnx.TensorProto.INT4)
    return {t.name: math.prod(t.dims) for t in tensors if t.data_type in low}


@pytest.mark.parametrize(
    "cells",
    [
        nn.LSTM(16, 16, bidirectional=True, batch_first=True),
        nn.GRU(16, 32, batch_first=True),
        nn.RNN(16, 32, batch_first=True),
    ],
    ids=["lstm", "gru", "rnn"],
)
def test_weights_of_recurrent_networks_are_quantized(cells: nn.Module, tmp_path: Path) -> None:
    compiled = compile_model(
        Recurrent(cells), (torch.randn(2, 3, 16),), num_samples=8, formats=("onnx",)
    )
    assert compiled.report["verify"]["comparisons"][0]["exact"]["rel"] < 1e-5
    quantized = {layer["name"] for layer in compiled.report["layers"]}
    matrices = {f"cells.{n}" for n, p in cells.named_parameters() if p.ndim == 2}
    assert quantized == matrices | {"head.weight"}
    codes = codes_in(compiled.folder / "model.onnx")
    elements = sum(p.numel() for p in cells.parameters() if p.ndim == 2)
    weights = [name for name in codes if name.startswith("cells") and "zero" not in name]
    once = sum(codes[name] for name in weights)
    assert once == elements, "each step of the sequence has a copy"


@pytest.mark.parametrize(
    ("last", "shape"),
    [
        (nn.ConvTranspose1d(8, 8, 4, 2), (2, 3, 9)),
        (nn.ConvTranspose2d(8, 8, 2, 2, groups=2), (2, 3, 9, 9)),
        (nn.ConvTranspose3d(8, 8, 2, 2), (2, 3, 5, 5, 5)),
    ],
    ids=["1d", "2d-grouped", "3d"],
)
def test_transposed_convolutions_are_quantized(last: nn.Module, shape: tuple[int, ...]) -> None:
    convolution = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}[len(shape)]
    model = nn.Sequential(convolution(3, 8, 3), nn.ReLU(), last)
    compiled = compile_model(model, (torch.randn(shape),), num_samples=8, formats=("onnx",))
    assert compiled.report["verify"]["comparisons"][0]["exact"]["rel"] < 1e-5
    assert "2.weight" in {layer["name"] for layer in compiled.report["layers"]}
