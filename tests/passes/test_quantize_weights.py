"""Quantized products: graph, onnxruntime and a NumPy reference give the same numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

import awqc
from awqc.errors import UsageError
from awqc.export.onnx import export_onnx
from awqc.export.whole_numbers import int_grid
from awqc.numerics.formats.base import QuantizedWeight
from awqc.numerics.formats.int_grid import IntGrid
from awqc.numerics.request import QuantizationSpec
from awqc.program import Program
from awqc.weights.decisions import decide
from tests.export.quantizing import run_onnx
from tests.tiny import capture as capture_model
from tests.tiny import captured, relative, run


def dequantized(q: QuantizedWeight) -> NDArray[np.float64]:
    """``(code - zero_point) * scale`` element by element, in float64."""
    codes, scale = q.codes.numpy().astype(np.float64), q.tensors["scale"].double().numpy()
    form = int_grid(q.format)
    width = form.width(codes.shape[1])
    zeros = (
        np.full(scale.shape, 2 ** (form.bits - 1))
        if "zero_point" not in q.tensors
        else q.tensors["zero_point"].numpy().astype(np.float64)
    )
    column = np.arange(codes.shape[1]) // width
    matrix: NDArray[np.float64] = (codes - zeros[:, column]) * scale[:, column]
    return matrix


SHAPES = [(140, 5), (100, 8), (33, 1), (96, 7), (1, 3)]
"""Columns and rows; most last groups are ragged, and rows no multiple of a byte's codes."""


class Slices(nn.Module):
    """One product for each of `SHAPES`, of the first columns of the input."""

    def __init__(self) -> None:
        super().__init__()
        self.products = nn.ModuleList(nn.Linear(*shape) for shape in SHAPES)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(p(x[..., : size[0]]) for p, size in zip(self.products, SHAPES, strict=True))


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(
    ("bits", "group"), [(2, 16), (2, -1), (3, "auto"), (4, 48), (4, 32), (8, -1), (8, 64)]
)
def test_graph_onnx_and_numpy_agree(
    bits: int, group: int | str, symmetric: bool, tmp_path: Path
) -> None:
    program = capture_model(Slices(), torch.randn(3, 140))
    run(
        program,
        f"canonicalize,quantize-weights{{bits={bits},group-size={group},"
        f"symmetric={str(symmetric).lower()}}}",
    )
    (x,) = (value.double().numpy() for value in program.example.values())
    path = export_onnx(program, tmp_path / "model.onnx").path
    runs = zip(program.run(program.example), run_onnx(path, program.example), strict=True)
    for index, outputs in enumerate(runs):
        matrix = dequantized(program.findings.quantized[f"products.{index}.weight"])
        bias = program.weight(f"products.{index}.bias").double().numpy()
        seen = x[:, : matrix.shape[1]]
        # Sums of up to 140 float32 products against float64: each step rounds by 6e-8 of
        # the partial sum, which is at most the sum of magnitudes.
        limit = 1e-6 * (np.abs(seen) @ np.abs(matrix).T + np.abs(bias))
        for found in outputs:
            assert (np.abs(found.double().numpy() - (seen @ matrix.T + bias)) <= limit).all()


@pytest.mark.parametrize("bits", [4, 8])
def test_more_bits_are_nearer(program: Program, bits: int) -> None:
    before = program.run(program.example)[0]
    run(program, f"canonicalize,quantize-weights{{bits={bits}}}")
    # A step is 2 / 2^bits of a group's range, the error a fifth of a step; depth adds up.
    assert relative(program.run(program.example)[0], before) < {4: 0.4, 8: 0.02}[bits]


class Convolutions(nn.Module):
    """Convolutions of one to three axes, grouped, 1x1 and with a kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv1d(6, 12, 3, groups=3)
        self.two = nn.Conv2d(6, 16, (2, 1), groups=2)
        self.three = nn.Conv3d(1, 4, 2)
        self.point = nn.Conv2d(16, 8, 1, stride=2)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        images = x.unflatten(2, (4, 5))
        return self.one(x), self.point(self.two(images).relu()), self.three(images.unsqueeze(1))


def test_convolutions_of_any_rank(tmp_path: Path) -> None:
    program = capture_model(Convolutions().eval(), torch.randn(2, 6, 20))
    before = program.run(program.example)
    run(
        program,
        "canonicalize,insert-observers,calibrate,search-scales,fold-scales,"
        "quantize-weights{bits=8,group-size=8}",
    )
    sizes = {name: int_grid(q.format).group_size for name, q in program.findings.quantized.items()}
    assert sizes == {"one.weight": -1, "two.weight": -1, "point.weight": 8, "three.weight": -1}
    assert program.findings.quantized["two.weight"].codes.shape == (16, 6)
    now = program.run(program.example)
    path = export_onnx(program, tmp_path / "model.onnx").path
    for wanted, graph, exported in zip(before, now, run_onnx(path, program.example), strict=True):
        assert relative(graph, wanted) < 0.02
        assert relative(exported, graph) < 1e-6


def test_refusals_leave_the_weight_in_float() -> None:
    program = captured("conv")
    before = program.weight("3.weight").clone()
    run(program, "canonicalize,quantize-weights{exclude=^11}")
    assert set(program.findings.quantized) == {"0.weight", "5.weight", "7.weight"}
    assert program.findings.skipped["3.weight"].startswith("depthwise")
    assert program.findings.skipped["11.weight"] == "excluded by the user (^11)"
    assert torch.equal(program.weight("3.weight"), before)


def test_float_weights_leave_the_program() -> None:
    program = run(captured("gated"), "canonicalize,quantize-weights")
    names = set(program.parameters())
    assert "up.weight" not in names
    assert {"up.weight.packed", "up.weight.scale", "up.weight.zero_point"} <= names
    assert program.weight("up.weight.packed").dtype == torch.uint8
    assert program.weight("up.weight.packed").shape == (64, 16)


def test_symmetric_weights_store_no_zero_points() -> None:
    program = run(captured("gated"), "canonicalize,quantize-weights{symmetric=true}")
    assert not any("zero_point" in name for name in program.parameters())


@pytest.mark.parametrize("kind", ["zero", "constant", "outlier", "denormal", "huge"])
def test_hostile_weights_run_in_onnxruntime(kind: str, tmp_path: Path) -> None:
    module = nn.Linear(64, 8, bias=False)
    with torch.no_grad():
        value = {"zero": 0.0, "constant": 0.3, "outlier": 1e6, "denormal": 1e-40, "huge": 3e38}
        rows = {"outlier": (slice(2, 3), slice(5, 6))}.get(kind, (slice(0, 4), slice(None)))
        module.weight[rows] = value[kind]
    x = torch.randn(3, 64)
    program = run(capture_model(module, x), "canonicalize,quantize-weights{group-size=32}")
    path = export_onnx(program, tmp_path / "model.onnx").path
    graph, exported = program.run(program.example)[0], run_onnx(path, program.example)[0]
    finite = torch.isfinite(graph)
    assert bool(finite.all()) or kind == "huge"  # sums of 64 such weights overflow by themselves
    torch.testing.assert_close(exported[finite], graph[finite], rtol=1e-4, atol=1e-6)


class Kernels(nn.Module):
    """A convolution, a product of each pixel, a transposed convolution, and a linear."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.point = nn.Conv2d(8, 32, 3, padding=1), nn.Conv2d(32, 32, 1)
        self.back, self.line = nn.ConvTranspose2d(32, 8, 2), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mixed = self.back(torch.relu(self.point(torch.relu(self.wide(x)))))
        made: torch.Tensor = self.line(mixed.mean((2, 3)))
        return made


@pytest.mark.parametrize(
    ("conv_bits", "widths"),
    [
        (None, {"wide": 4, "point": 4, "back": 4, "line": 4}),
        (8, {"wide": 8, "point": 4, "back": 8, "line": 4}),
        (0, {"point": 4, "line": 4}),
    ],
)
def test_kernels_may_have_a_width_of_their_own(
    conv_bits: int | None, widths: dict[str, int]
) -> None:
    program = capture_model(Kernels(), torch.randn(2, 8, 6, 6))
    spec = QuantizationSpec(bits=4, group_size=8, conv_bits=conv_bits)
    found = decide(program, spec)
    assert {
        name.partition(".")[0]: form.bits
        for name, form in found.formats.items()
        if isinstance(form, IntGrid)
    } == widths
    if conv_bits == 0:
        assert found.refused["wide.weight"] == found.refused["back.weight"]
    with pytest.raises(UsageError, match="choose 0"):
        QuantizationSpec(conv_bits=5)


def test_a_recipe_keeps_the_width_of_kernels(tmp_path: Path) -> None:
    first = awqc.compile(
        Kernels().eval(), (torch.randn(2, 8, 6, 6),), group_size=8, conv_bits=8,
        output_dir=tmp_path / "out", effort="fast", provider="cpu", formats="onnx",
    )  # fmt: skip
    again = awqc.compile(
        Kernels().eval(), (torch.randn(2, 8, 6, 6),), recipe=tmp_path / "out" / "recipe.json",
        provider="cpu", formats="onnx",
    )  # fmt: skip
    for report in (first.report, again.report):
        assert {layer["name"]: layer["bits"] for layer in report["layers"]}["wide.weight"] == 8
