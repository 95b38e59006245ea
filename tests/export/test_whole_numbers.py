"""A format that few exporters have a form for: compiled, run by torch alone, refused elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import awqc
from awqc.errors import ExportError, UsageError
from awqc.export.formats import FORMATS
from awqc.export.onnx import export_onnx
from awqc.numerics.formats.int_grid import IntGrid
from awqc.numerics.formats.q4_k import Q4K
from awqc.runtimes.torch_int4 import load
from tests.export.quantizing import captured, in_torch_alone, quantized
from tests.tiny import relative


class Net(nn.Module):
    """Two products of 256 columns, one of 40, and a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(256), nn.Linear(256, 512), nn.Linear(512, 40)
        self.last, self.conv = nn.Linear(40, 24), nn.Conv1d(1, 4, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.last(self.down(torch.relu(self.up(self.norm(x)))))
        out: torch.Tensor = self.conv(y.unsqueeze(1))
        return out


@pytest.fixture(scope="module")
def compiles() -> dict[str, awqc.Compiled]:
    torch.manual_seed(0)
    model = Net().eval()
    batches = [(torch.randn(16, 256) * (1 + torch.arange(256) % 5),) for _ in range(14)]
    return {
        effort: awqc.compile(
            model, batches[0], calib=batches, weight_format="Q4_K", formats=("pt2",), effort=effort
        )
        for effort in ("fast", "default")
    }


def test_weights_get_it_where_they_have_a_place(compiles: dict[str, awqc.Compiled]) -> None:
    report = compiles["default"].report
    assert {layer["name"]: layer["format"] for layer in report["layers"]} == {
        "up.weight": "Q4_K", "down.weight": "Q4_K", "last.weight": "int", "conv.weight": "int",
    }  # fmt: skip
    assert any("1 weights are not in Q4_K" in n and "40 columns" in n for n in report["notes"])
    statuses = [site["status"] for site in report["sites"] if "up.weight" in site["linears"]]
    assert statuses == ["folded"]
    assert report["recipe"]["quantization"]["weight_format"] == "Q4_K"


def test_compensating_lowers_the_loss(compiles: dict[str, awqc.Compiled]) -> None:
    errors = {
        effort: sum(10 ** (-layer["output_sqnr_db"] / 10) for layer in found.report["layers"])
        for effort, found in compiles.items()
    }
    assert errors["default"] < 0.8 * errors["fast"]


def test_the_archive_runs_with_torch_alone(compiles: dict[str, awqc.Compiled]) -> None:
    result, x = compiles["default"], torch.randn(5, 256)
    (found,) = in_torch_alone(result.folder / "model.pt2", x)
    torch.testing.assert_close(found, result.graph_module(x))  # sums in another order of threads


def test_torchs_own_kernels_leave_it_to_plain_operations(
    compiles: dict[str, awqc.Compiled],
) -> None:
    result, x = compiles["default"], torch.randn(5, 256)
    model = load(result.folder)
    assert "no whole numbers" in model.portable["up.weight"]
    (found,) = model.run({model.inputs[0].name: x})
    assert relative(found, result.graph_module(x)) < 1e-5


def test_a_recipe_repeats_it(compiles: dict[str, awqc.Compiled]) -> None:
    torch.manual_seed(0)
    result = compiles["default"]
    again = awqc.compile(
        Net().eval(), (torch.randn(16, 256),), recipe=result.folder, formats=("pt2",)
    )
    x = torch.randn(5, 256)
    assert torch.equal(again.graph_module(x), result.graph_module(x))
    recipe = json.loads((result.folder / "recipe.json").read_text())
    assert recipe["quantization"]["bits"] == 4


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("onnx", "DequantizeLinear takes whole numbers .* Q4_K is none of them"),
        ("ort", "MatMulNBits takes whole numbers .* Q4_K is none of them"),
        ("awq", "Q4_K, and the format holds whole numbers with a scale a group"),
        ("compressed-tensors", "Q4_K, and the format holds whole numbers with a scale a group"),
    ],
)
def test_exporters_without_a_form_for_it_say_why(name: str, reason: str) -> None:
    with pytest.raises(UsageError, match=f"the format {name} cannot hold .* {reason}.*write pt2"):
        awqc.compile(Net(), (torch.randn(2, 256),), weight_format="Q4_K", formats=(name, "pt2"))


def test_every_exporter_answers_for_every_width() -> None:
    held = {
        name: [bits for bits in (2, 3, 4, 8) if exporter.why_not(IntGrid(bits, 32)) is None]  # type: ignore[arg-type]  # each is one of `BITS`
        for name, exporter in FORMATS.items()
    }
    assert held == {
        "onnx": [2, 3, 4, 8], "ort": [2, 3, 4, 8], "pt2": [2, 3, 4, 8], "awq": [2, 3, 4],
        "compressed-tensors": [2, 3, 4, 8], "gguf": [],  # with zero points
    }  # fmt: skip


def test_onnx_names_the_weight_that_it_cannot_write(tmp_path: Path) -> None:
    program = captured(nn.Linear(256, 16), torch.randn(2, 256))
    with pytest.raises(ExportError, match="the weight weight has no ONNX form"):
        export_onnx(quantized(program, Q4K()), tmp_path / "model.onnx")


def test_a_budget_chooses_among_whole_numbers_only() -> None:
    with pytest.raises(UsageError, match="leave weight_format out"):
        awqc.compile(Net(), (torch.randn(2, 256),), weight_format="Q4_K", avg_bits=5)
