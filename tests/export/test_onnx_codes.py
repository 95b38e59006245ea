"""What of a weight lies in memory while it is written, and that the file does not depend on it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from awqc.export.onnx import export_onnx
from awqc.export.ort import export_ort
from awqc.numerics import onnx_packed
from awqc.numerics.formats.int_grid import Bits, IntGrid
from awqc.program import Program
from tests.export.quantizing import captured, quantized

FORMS = [IntGrid(4, 32), IntGrid(3, 16, True), IntGrid(8, -1, True)]


def model(*forms: IntGrid) -> Program:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(96, 72), nn.ReLU(), nn.Linear(72, 33), nn.Linear(33, 48))
    return quantized(captured(net, torch.randn(2, 96)), *(forms or FORMS))


def written(program: Program, folder: Path, external: bool) -> dict[str, bytes]:
    """The content of both ONNX forms."""
    folder.mkdir()
    export_onnx(program, folder / "model.onnx", external_data=external)
    (folder / "ort").mkdir()
    export_ort(folder / "model.onnx", folder / "ort" / "model.onnx")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.parametrize("external", [False, True], ids=["inline", "external"])
def test_few_codes_at_once_make_the_same_files(
    external: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = model()
    wanted = written(program, tmp_path / "whole", external)
    most: list[int] = []
    own = IntGrid.codes

    def recorded(self: IntGrid, tensors: Mapping[str, Tensor], columns: int) -> Tensor:
        codes = own(self, tensors, columns)
        most.append(codes.numel())
        return codes

    monkeypatch.setattr(onnx_packed, "CODES_AT_ONCE", 1000)
    monkeypatch.setattr(IntGrid, "codes", recorded)
    assert written(program, tmp_path / "few", external) == wanted
    assert max(most) <= 1000 < 96 * 72


@pytest.mark.parametrize("bits", [4, 8])
def test_nothing_is_packed_before_it_is_written(
    bits: Bits, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tensor of the model holds no content, before and after it was asked for it."""
    from awqc.export.onnx_codes import code_tensor, rows_of

    weight = next(iter(model(IntGrid(bits, 16)).findings.quantized.values()))
    asked: list[int] = []

    def rows(start: int, stop: int) -> Tensor:
        asked.append(stop - start)
        return rows_of(weight)(start, stop)

    tensor = code_tensor("w", (72, 96), rows, weight.format, 21)
    assert (tensor.nbytes, asked) == (72 * 96 * bits // 8, [])
    contents = [tensor.tobytes(), tensor.tobytes()]
    assert contents[0] == contents[1]
    assert sum(asked) == 2 * 72
