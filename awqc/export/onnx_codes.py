"""Low-bit codes as ONNX tensors: element types, packing, block sizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor

from awqc.export.whole_numbers import int_grid
from awqc.numerics.formats.base import QuantizedWeight, WeightFormat
from awqc.numerics.onnx_packed import Rows, rows_at_once
from awqc.numerics.packing import pack
from awqc.targets.known import ORT_CPU

Make = Callable[[], Tensor]
FLOATS = {
    torch.float32: ir.DataType.FLOAT,
    torch.float16: ir.DataType.FLOAT16,
    torch.bfloat16: ir.DataType.BFLOAT16,
}

FUSABLE_BLOCKS = tuple(sorted(ORT_CPU.block_sizes, reverse=True))
MIN_OPSET = 21
TWO_BIT_OPSET = 25


def fusable_block(group_size: int) -> int:
    """The largest block that fuses and cuts a group into equal parts, else the group.

    >>> fusable_block(128), fusable_block(48), fusable_block(512), fusable_block(24)
    (128, 16, 256, 24)
    """
    return next((block for block in FUSABLE_BLOCKS if group_size % block == 0), group_size)


def oldest_opset(form: WeightFormat) -> int:
    """The opset from which on codes take as many bits as they have."""
    return TWO_BIT_OPSET if int_grid(form).bits == 2 else MIN_OPSET


def code_type(form: WeightFormat, opset: int) -> tuple[ir.DataType, int]:
    """Element type of the codes, and its width in bits.

    Symmetric codes are stored signed, around zero, which needs no zero point; others
    unsigned. 2-bit types exist from opset 25 on; before, 2-bit codes take 4 bits.
    """
    grid = int_grid(form)
    bits = grid.storage_bits
    if bits == 2 and opset < TWO_BIT_OPSET:
        bits = 4
    prefix = "INT" if grid.symmetric else "UINT"
    return ir.DataType[f"{prefix}{bits}"], bits


def code_tensor(name: str, shape: Sequence[int], rows: Rows, form: WeightFormat, opset: int) -> Any:
    """Codes (or zero points, which have the same type) as a tensor of the narrow type.

    It holds nothing: its content is made each time that it is asked for, from ``rows``, a few
    rows at once. ONNX packs in row-major order, of tensors of any ``shape``.
    """
    dtype, bits = code_type(form, opset)
    grid = int_grid(form)
    offset = 2**bits - grid.midpoint if grid.symmetric else 0

    def make() -> Any:
        stored = _packed(shape, lambda start, stop: rows(start, stop) + offset, bits)
        if bits < 8:
            return ir.PackedTensor(stored, dtype, shape=ir.Shape(shape))
        return ir.Tensor(stored.view("int8" if grid.symmetric else "uint8").reshape(shape))

    return ir.LazyTensor(make, dtype, ir.Shape(shape), name=name)


def float_tensor(name: str, shape: Sequence[int], dtype: torch.dtype, make: Make) -> Any:
    """Scales, which ``make`` makes, as an ONNX tensor of the same dtype that holds nothing."""

    def made() -> Any:
        tensor = make().contiguous()
        if dtype is torch.bfloat16:
            return ir.Tensor(tensor.view(torch.uint16).numpy(), dtype=ir.DataType.BFLOAT16)
        return ir.Tensor(tensor.numpy())

    return ir.LazyTensor(made, FLOATS[dtype], ir.Shape(shape), name=name)


def rows_of(weight: QuantizedWeight) -> Rows:
    """Codes of rows of ``weight``: ``(stop - start, columns)``."""
    packed = weight.tensors["packed"]
    return lambda start, stop: weight.format.codes({"packed": packed[start:stop]}, weight.columns)


def columns_of(weight: QuantizedWeight) -> Rows:
    """Codes of columns of ``weight``, as rows: ``(stop - start, rows)``."""
    packed = weight.tensors["packed"]
    per_byte = 8 // int_grid(weight.format).storage_bits

    def rows(start: int, stop: int) -> Tensor:
        cut = packed[:, start // per_byte : -(-stop // per_byte)]
        return weight.format.codes({"packed": cut}, stop - start).T

    return rows


def _packed(shape: Sequence[int], rows: Rows, bits: int) -> NDArray[Any]:
    """``rows`` of a tensor of ``shape``, of which the lowest ``bits`` count, packed in order."""
    count, width = shape[0], prod(shape[1:])
    packed = np.empty(-(-count * width * bits // 8), np.uint8)
    step = rows_at_once(width)  # these end where a byte ends
    place = 0
    for start in range(0, count, step):
        part = rows(start, min(start + step, count)) & (2**bits - 1)
        content = pack(part.reshape(1, -1), bits).reshape(-1)
        packed[place : place + len(content)] = content.numpy()
        place += len(content)
    return packed
