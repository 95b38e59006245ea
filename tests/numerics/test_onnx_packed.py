"""Codes out of ONNX tensors, a few at a time, against onnx_ir's own reading of all of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import Tensor

from awqc.numerics import onnx_packed
from awqc.numerics.onnx_packed import StoredCodes, packed_rows
from awqc.numerics.onnx_types import WIDTHS
from awqc.numerics.packing import pack, unpack

ROWS, COLUMNS = 21, 40


def stored(dtype: ir.DataType, columns: int, path: Path | None) -> tuple[ir.TensorProtocol, Tensor]:
    """A tensor of ``dtype``, in a file if there is a ``path``, and its codes as unsigned."""
    bits = WIDTHS[dtype]
    codes = torch.randint(2**bits, (ROWS, columns), dtype=torch.uint8)
    raw = codes + 2 ** (bits - 1) if dtype.is_signed() else codes
    content = pack((raw & (2**bits - 1)).reshape(1, -1), bits).reshape(-1).numpy()
    shape = ir.Shape((ROWS, columns))
    if path is not None:
        path.write_bytes(b"?" * 5 + content.tobytes())
        external = ir.ExternalTensor(
            path.name, 5, len(content), dtype, shape=shape, name="w", base_dir=path.parent
        )
        return external, codes
    if bits == 8:
        array = content.reshape(ROWS, columns)
        return ir.Tensor(array.view(np.int8) if dtype.is_signed() else array), codes
    return ir.PackedTensor(content, dtype, shape=shape), codes


@pytest.mark.parametrize("where", ["memory", "file"])
@pytest.mark.parametrize("columns", [COLUMNS, 17], ids=["whole bytes", "odd"])
@pytest.mark.parametrize("dtype", WIDTHS, ids=str)
def test_rows_and_columns_are_the_codes(
    dtype: ir.DataType, columns: int, where: str, tmp_path: Path
) -> None:
    tensor, codes = stored(dtype, columns, tmp_path / "data" if where == "file" else None)
    found = StoredCodes.of(tensor)
    assert torch.equal(found.rows(0, ROWS), codes)
    assert torch.equal(found.rows(8, 16), codes[8:16])
    assert torch.equal(found.turned(0, columns), codes.T)
    assert torch.equal(found.turned(8, 15), codes[:, 8:15].T)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_few_codes_are_unpacked_at_once(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_packed, "CODES_AT_ONCE", 8 * COLUMNS)
    codes = torch.randint(2**bits, (ROWS, COLUMNS), dtype=torch.uint8)
    asked: list[int] = []

    def rows(start: int, stop: int) -> Tensor:
        asked.append(stop - start)
        return codes[start:stop]

    assert torch.equal(unpack(packed_rows(rows, ROWS, COLUMNS, bits), bits, COLUMNS), codes)
    assert asked == [8, 8, 5]
