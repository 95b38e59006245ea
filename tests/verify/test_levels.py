"""Accuracy levels: set by hand, or chosen by what int8 activations cost."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

from awqc.errors import UsageError
from awqc.export.onnx import export_onnx
from awqc.export.ort import export_ort
from awqc.export.ort_levels import parse_level, set_level
from awqc.export.session_file import write_session_file
from awqc.numerics.formats.int_grid import IntGrid
from awqc.program import Program
from awqc.runtimes.session_file import TUNED, read_levels
from awqc.runtimes.session_settings import ACCURACY_LEVEL, FPA_INTB
from awqc.verify.levels import _loss, choose_levels, damages
from tests.export.quantizing import captured, quantized, relative_error, run_onnx


class Outliers(nn.Module):
    """Three products; one channel of what the second reads is a thousand times larger."""

    factor: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = (nn.Linear(64, 64, bias=False) for _ in range(3))
        self.register_buffer("factor", torch.ones(64))
        self.factor[5] = 1000.0
        with torch.no_grad():  # which the product hardly looks at
            self.second.weight[:, 5] = 0.0

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.second(torch.tanh(self.first(x)) * self.factor))
        out: Tensor = self.last(y)
        return out


def outliers(folder: Path, level: int = 4) -> tuple[Program, Path]:
    program = quantized(captured(Outliers(), torch.randn(2, 64)), IntGrid(4, 32))
    path = export_onnx(program, folder / "model.onnx").path
    (folder / TUNED).mkdir()
    return program, export_ort(path, folder / TUNED / "model.onnx", level).path


def test_the_product_that_is_hurt_becomes_exact(tmp_path: Path) -> None:
    _, path = outliers(tmp_path)
    batches = [{"x": torch.randn(8, 64)} for _ in range(2)]
    feeds = [{"x": batch["x"].numpy()} for batch in batches]
    found = damages(path, feeds)
    worst = max(found, key=lambda name: found[name])
    assert "second" in worst
    assert found[worst] > 5 * sorted(found.values())[1]
    levels = choose_levels(path, batches, limit=0.05)
    assert levels == {name: 1 if name == worst else 4 for name in found}
    wanted = [[output.numpy() for output in run_onnx(tmp_path / "model.onnx", b)] for b in batches]
    assert _loss(path, levels, feeds, wanted) <= 0.05
    assert set(choose_levels(path, batches, limit=10.0).values()) == {4}
    assert set(choose_levels(path, batches, limit=0.0).values()) == {1}


def test_a_level_that_was_asked_for_reaches_both_forms(tmp_path: Path) -> None:
    program, path = outliers(tmp_path)
    set_level(tmp_path, 1)
    assert set(read_levels(onnx.load(path, load_external_data=False)).values()) == {1}
    feeds = {"x": torch.randn(3, 64)}
    assert relative_error(run_onnx(path, feeds, level=4), program.run(feeds)) < 1e-5
    for folder in (tmp_path, tmp_path / TUNED):
        settings = json.loads((folder / "session.json").read_text())
        assert settings["config"] == {ACCURACY_LEVEL: "1"}
    set_level(tmp_path, None)
    assert json.loads((tmp_path / "session.json").read_text())["config"] == {}


def test_levels_as_they_are_given() -> None:
    assert parse_level("auto") is None
    assert [parse_level(level) for level in (0, "4")] == [0, 4]
    with pytest.raises(UsageError, match="accuracy level 5 is unknown; choose auto or one of 0, 1"):
        parse_level(5)


@pytest.mark.parametrize(
    ("rows", "group", "symmetric", "half", "fits"),
    [
        (64, 32, True, True, True),
        (64, 32, True, False, False),
        (64, 32, False, True, False),
        (64, 64, True, True, False),
        (48, 32, True, True, False),
    ],
)
def test_the_fast_cuda_kernel_is_asked_for_where_it_fits(
    rows: int, group: int, symmetric: bool, half: bool, fits: bool, tmp_path: Path
) -> None:
    dtype = torch.float16 if half else torch.float32
    model = nn.Linear(128, rows, bias=False).to(dtype)
    program = captured(model, torch.randn(2, 128, dtype=dtype))
    path = export_onnx(
        quantized(program, IntGrid(4, group, symmetric)), tmp_path / "model.onnx"
    ).path
    tuned = export_ort(path, tmp_path / "tuned.onnx").path
    for form in (path, tuned):
        written = json.loads(write_session_file(form, None).read_text())
        wanted = {"cuda": {"config": {FPA_INTB: "1"}, "options": {}}} if fits else {}
        assert written["providers"] == wanted
