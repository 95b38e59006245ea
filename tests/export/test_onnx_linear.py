"""Quantized products in onnxruntime: exact, and fused."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn

from awqc.export.onnx import export_onnx
from awqc.export.onnx_codes import TWO_BIT_OPSET
from awqc.numerics.formats.int_grid import IntGrid
from awqc.program import Program
from awqc.runtimes.ort_fusion import fused_kernels
from tests.export.quantizing import captured, quantized, relative_error, run_onnx

GROUPS = [16, 32, 48, 64, 128, -1]


def check(program: Program, path: Path, *inputs: Tensor, **options: Any) -> int:
    """Export, compare with the graph in PyTorch; returns the number of fused kernels."""
    exported = export_onnx(program, path, **options)
    feeds = {spec.name: x for spec, x in zip(program.inputs, inputs, strict=True)}
    for level in (0, 1):
        found = run_onnx(exported.path, feeds, level)
        assert relative_error(found, program.run(feeds)) < 2e-6
    report = fused_kernels(exported.path)
    assert report.unfused == ()
    return report.low_bit


def stack(width: int) -> nn.Sequential:
    """Columns: ``width`` and 72, which no usual group divides; with and without bias."""
    return nn.Sequential(
        nn.Linear(width, 72),
        nn.ReLU(),
        nn.Linear(72, 40, bias=False),
        nn.Tanh(),
        nn.Linear(40, 8),
    )


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("columns", [128, 72])  # 72: ragged for every group but 8
def test_every_product_fuses_and_is_exact(bits: Any, columns: int, tmp_path: Path) -> None:
    kinds = [IntGrid(bits, group, s) for group, s in product(GROUPS, (False, True))]
    layers = [nn.Linear(columns, columns, bias) for bias in (False, True) for _ in kinds]
    model = nn.Sequential(*(nn.Sequential(layer, nn.Tanh()) for layer in layers))
    program = quantized(captured(model, torch.randn(3, columns)), *kinds)
    assert check(program, tmp_path / "m.onnx", torch.randn(5, columns)) == len(layers)


@pytest.mark.parametrize("shape", [(64,), (4, 64), (2, 3, 64), (2, 3, 2, 64)])
def test_inputs_of_any_rank_with_clamps_behind(shape: tuple[int, ...], tmp_path: Path) -> None:
    model = nn.Sequential(
        nn.Linear(64, 24),
        nn.ReLU(),
        nn.Linear(24, 24, bias=False),
        nn.ReLU6(),
        nn.Linear(24, 24, bias=False),
        nn.ReLU(),
        nn.Linear(24, 8),
        nn.Hardtanh(),
    )
    program = quantized(captured(model, torch.randn(*shape)), IntGrid(4, 16))
    assert check(program, tmp_path / "m.onnx", torch.randn(*shape)) == 4


class Sums(nn.Module):
    """Products without a bias whose results are added to something else, and clamped."""

    def __init__(self) -> None:
        super().__init__()
        self.products = nn.ModuleList(nn.Linear(64, 64, bias=False) for _ in range(4))
        self.row, self.bias = nn.Parameter(torch.randn(1, 64)), nn.Parameter(torch.randn(64))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.products[0](x)
        y = self.products[1](x)
        x = torch.relu(y) + (y + x)
        x = torch.relu(self.row + self.products[2](x))
        return torch.relu(self.products[3](x) + self.bias) + x


@pytest.mark.parametrize("shape", [(4, 64), (2, 3, 64)])
def test_products_that_are_added(shape: tuple[int, ...], tmp_path: Path) -> None:
    program = quantized(captured(Sums(), torch.randn(*shape)), IntGrid(4, 16))
    assert check(program, tmp_path / "m.onnx", torch.randn(*shape)) == 4


def test_a_group_of_512_becomes_blocks_of_256(tmp_path: Path) -> None:
    program = quantized(captured(nn.Linear(1200, 16), torch.randn(2, 1200)), IntGrid(4, 512))
    assert check(program, tmp_path / "m.onnx", torch.randn(2, 1200)) == 1
    scale = {t.name: t for t in onnx.load(tmp_path / "m.onnx").graph.initializer}["weight.scale"]
    assert list(scale.dims) == [5, 16]


def test_a_group_that_no_block_divides_is_exact_but_reported(tmp_path: Path) -> None:
    program = quantized(captured(nn.Linear(60, 16), torch.randn(2, 60)), IntGrid(4, 24))
    exported = export_onnx(program, tmp_path / "m.onnx")
    feeds = {program.inputs[0].name: torch.randn(5, 60)}
    assert relative_error(run_onnx(exported.path, feeds), program.run(feeds)) < 2e-6
    report = fused_kernels(exported.path)
    assert (report.low_bit, report.unfused) == (0, ("weight",))


def test_two_bit_codes_take_two_bits_from_opset_25(tmp_path: Path) -> None:
    program = quantized(captured(nn.Linear(64, 16), torch.randn(2, 64)), IntGrid(2, 16))
    exported = export_onnx(program, tmp_path / "new.onnx")
    assert exported.opset == TWO_BIT_OPSET
    codes = onnx.load(exported.path).graph.initializer
    assert onnx.TensorProto.UINT2 in {tensor.data_type for tensor in codes}
    old = quantized(captured(nn.Linear(64, 16), torch.randn(2, 64)), IntGrid(2, 16))
    assert check(old, tmp_path / "old.onnx", torch.randn(3, 64), opset=21) == 1


class Shared(nn.Module):
    """One weight read by two products."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.inner(torch.tanh(self.inner(x)))
        return y


def test_each_reader_of_a_weight_gets_its_own_copy(tmp_path: Path) -> None:
    program = quantized(captured(Shared(), torch.randn(2, 32)), IntGrid(4, 16))
    assert check(program, tmp_path / "m.onnx", torch.randn(3, 32)) == 2


class Convolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Conv2d(4, 8, 3, padding=1)
        self.grouped = nn.Conv2d(8, 8, 3, groups=2, stride=2)
        self.pointwise = nn.Conv1d(8, 16, 1)
        self.deep = nn.Conv3d(1, 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.grouped(torch.relu(self.wide(x)))
        x = self.pointwise(x.flatten(2))
        y: Tensor = self.deep(x.reshape(x.shape[0], 1, 4, 4, -1))
        return y


@pytest.mark.parametrize("group", [-1, 8, 5])
def test_convolutions(group: int, tmp_path: Path) -> None:
    program = quantized(captured(Convolutions(), torch.randn(2, 4, 9, 9)), IntGrid(4, group))
    exported = export_onnx(program, tmp_path / "m.onnx")
    feeds = {program.inputs[0].name: torch.randn(3, 4, 9, 9)}
    assert relative_error(run_onnx(exported.path, feeds), program.run(feeds)) < 2e-6
    report = fused_kernels(exported.path)
    assert report.unfused == ()
    assert set(report.dequantized) == set(program.findings.quantized)


@pytest.mark.parametrize("padding", [1, "same"])
def test_a_deep_convolution_needs_no_bias(padding: int | str, tmp_path: Path) -> None:
    """As that which makes rows of an image's patches."""
    model = nn.Conv3d(2, 4, 3, padding=padding, bias=False)
    program = captured(model, torch.randn(2, 2, 3, 4, 5))
    exported = export_onnx(program, tmp_path / "m.onnx")
    feeds = {program.inputs[0].name: torch.randn(2, 2, 3, 4, 5)}
    assert relative_error(run_onnx(exported.path, feeds), program.run(feeds)) < 2e-6


def test_half_precision_keeps_half_scales(tmp_path: Path) -> None:
    program = quantized(captured(stack(64).half(), torch.randn(2, 64).half()), IntGrid(4, 32))
    exported = export_onnx(program, tmp_path / "m.onnx")
    feeds = {program.inputs[0].name: torch.randn(3, 64).half()}
    assert relative_error(run_onnx(exported.path, feeds), program.run(feeds)) < 5e-3
    scales = [t for t in onnx.load(exported.path).graph.initializer if t.name.endswith("scale")]
    assert {t.data_type for t in scales} == {onnx.TensorProto.FLOAT16}
    assert fused_kernels(exported.path).unfused == ()
