"""Conversions of dtypes that ONNX needs and torch does by itself."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from awqc.export import onnx_translator
from awqc.export.onnx import export_onnx
from awqc.export.type_promotion import values_known
from tests.export.quantizing import captured, run_onnx


class Mixed(nn.Module):
    """Numbers of several dtypes in the operations that make one of them."""

    def forward(self, whole: Tensor, half: Tensor, single: Tensor) -> tuple[Tensor, ...]:
        total = whole * single + half
        return total, torch.where(whole > half, whole, single), whole / 3, half**2 + whole.sqrt()


def test_what_is_known_gives_the_model_that_running_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = (torch.randint(0, 9, (3, 4)), torch.randn(3, 4).half(), torch.randn(3, 4))
    program = captured(Mixed(), *batch)
    for name, values in (("known", values_known), ("run", nullcontext)):
        monkeypatch.setattr(onnx_translator, "values_known", values)
        export_onnx(program, tmp_path / name)
    assert (tmp_path / "known").read_bytes() == (tmp_path / "run").read_bytes()
    named = dict(zip((spec.name for spec in program.inputs), batch, strict=True))
    for found, wanted in zip(run_onnx(tmp_path / "known", named), Mixed()(*batch), strict=True):
        assert found.dtype == wanted.dtype
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)
