"""Node by node, or as a whole: what makes the second way be taken, and what never does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from awqc.errors import ExportError
from awqc.export import decompose
from awqc.export.onnx import export_onnx
from awqc.machine.strict import FallbackError
from awqc.program import Program
from tests.export.quantizing import captured, relative_error, run_onnx


class Rest(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = 1.5 - self.linear(x)
        return made


@pytest.fixture
def program() -> Program:
    return captured(Rest(), torch.randn(3, 4))


def own(error: Exception) -> Callable[..., Any]:
    def broken(x: Tensor, other: float, alpha: float = 1) -> Tensor:
        raise error

    return broken


@pytest.mark.parametrize("kind", [KeyError, IndexError, TypeError, AttributeError, ValueError])
@pytest.mark.fallbacks
def test_a_fault_of_ours_takes_no_second_way(
    kind: type[Exception], program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decompose, "OWN", {torch.ops.aten.rsub.Scalar: own(kind("at 3"))})
    with pytest.raises(kind, match="at 3"):
        export_onnx(program, tmp_path / "model.onnx")
    assert program.notes == ()


@pytest.mark.fallbacks
def test_what_torch_refuses_is_written_as_a_whole_with_a_note(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = own(RuntimeError("no symbolic sizes"))
    monkeypatch.setattr(decompose, "OWN", {torch.ops.aten.rsub.Scalar: refused})
    path = tmp_path / "model.onnx"
    export_onnx(program, path)
    (note,) = program.notes
    assert "written as ONNX by torch's own decompositions" in note
    assert "rsub: aten.rsub.Scalar: no symbolic sizes" in note
    batch = program.check_batch()
    assert relative_error(run_onnx(path, batch), program.run(batch)) < 1e-6


def test_no_second_way_is_taken_unseen(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = own(RuntimeError("no symbolic sizes"))
    monkeypatch.setattr(decompose, "OWN", {torch.ops.aten.rsub.Scalar: refused})
    with pytest.raises(FallbackError, match="no symbolic sizes"):
        export_onnx(program, tmp_path / "model.onnx")


def test_what_neither_way_can_write_is_a_refusal(tmp_path: Path) -> None:
    class Spectrum(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            values: Tensor = torch.linalg.svdvals(x)
            return values

    with pytest.raises(ExportError, match="no ONNX form"):
        export_onnx(captured(Spectrum(), torch.randn(3, 4)), tmp_path / "model.onnx")
