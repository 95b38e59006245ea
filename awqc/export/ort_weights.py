"""Weights as onnxruntime's own low-bit operations take them, read out of the QDQ form.

``MatMulNBits`` wants unsigned codes ``(rows, blocks, block * bits / 8)``, the first code in the
lowest bits, the last block filled up; scales ``(rows, blocks)``; zero points packed likewise,
row by row, or none for the midpoint. Source: onnxruntime, ContribOperators.md.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor

from awqc.export.onnx_codes import rows_of
from awqc.export.whole_numbers import int_grid
from awqc.numerics.formats.base import QuantizedWeight
from awqc.numerics.formats.int_grid import IntGrid
from awqc.numerics.onnx_packed import StoredCodes, packed_rows
from awqc.numerics.onnx_types import WIDTHS
from awqc.numerics.packing import pack
from awqc.targets.base import PRODUCT, Target

Array = NDArray[Any]

SCALES = (ir.DataType.FLOAT, ir.DataType.FLOAT16)


def why_not(dequantize: Any, target: Target) -> str | None:
    """Why the codes of a DequantizeLinear cannot feed ``MatMulNBits``, or None if they can."""
    if PRODUCT not in target.fused:
        return f"{target.about} reads DequantizeLinear"
    codes, scale = dequantize.inputs[0].const_value, dequantize.inputs[1].const_value
    if scale is None or scale.dtype not in SCALES:
        return "scales are neither float32 nor float16"
    if len(codes.shape) != 2:
        return f"the weight has {len(codes.shape)} dimensions; MatMulNBits takes a matrix"
    block = dequantize.attributes.get_int("block_size", 0)
    if block and block not in target.block_sizes:
        *others, last = sorted(target.block_sizes)
        return f"groups of {block}; {PRODUCT} takes {', '.join(map(str, others))} or {last}"
    if not block and len(scale.shape) != 1:
        return "one scale for the whole weight"
    return None


def is_codes(value: Any) -> bool:
    """Whether ``value`` is constant codes."""
    return value is not None and value.const_value is not None and value.dtype in WIDTHS


def scales_lie_along_rows(dequantize: Any, transposed: bool) -> bool:
    """Whether scales belong to output channels of a product, or blocks of them."""
    block = dequantize.attributes.get_int("block_size", 0)
    summed = 1 if transposed else 0
    wanted = summed if block else 1 - summed
    return int(dequantize.attributes.get_int("axis", 1)) % 2 == wanted


def read_matrix(dequantize: Any, transposed: bool, target: Target) -> QuantizedWeight | None:
    """The weight of a product ``x @ DequantizeLinear(codes)``, codes ``(columns, rows)``.

    Rows are output channels. ``transposed`` if a Transpose stands between, and codes are
    ``(rows, columns)``. A scale of a whole row is repeated for blocks that ``target`` is fast with.
    None where scales do not lie along the rows.
    """
    dtype = dequantize.inputs[0].dtype
    bits = WIDTHS[dtype]
    block = dequantize.attributes.get_int("block_size", 0)
    if not scales_lie_along_rows(dequantize, transposed):
        return None
    codes = StoredCodes.of(dequantize.inputs[0].const_value)
    scale = dequantize.inputs[1].const_value.numpy()
    zeros = _whole(dequantize.inputs[2].const_value) if len(dequantize.inputs) > 2 else None
    count, width = dequantize.inputs[0].shape
    if transposed:
        packed, shape = packed_rows(codes.rows, count, width, bits), (count, width)
    else:
        packed, shape = packed_rows(codes.turned, width, count, bits), (width, count)
    if block:
        matrices = (scale, zeros) if transposed else (scale.T, None if zeros is None else zeros.T)
        return _weight(packed, shape, *matrices, bits, block)
    size = target.row_block(shape[1])
    blocks = -(-shape[1] // size)
    spread = np.repeat(scale[:, None], blocks, axis=1)
    spread_zeros = None if zeros is None else np.repeat(zeros[:, None], blocks, axis=1)
    return _weight(packed, shape, spread, spread_zeros, bits, size)


def _weight(
    packed: Tensor,
    shape: tuple[int, int],
    scale: Array,
    zeros: Array | None,
    bits: Any,
    block: int,
) -> QuantizedWeight:
    form = IntGrid(bits, block, zeros is None)
    tensors = {"packed": packed, "scale": _tensor(scale)}
    if zeros is not None:
        tensors["zero_point"] = _tensor(zeros)
    return QuantizedWeight(form, tensors, shape)


def matmul_nbits(
    weight: QuantizedWeight,
) -> tuple[tuple[Array, Array, Array | None], dict[str, int]]:
    """Codes, scales and zero points as ``MatMulNBits`` takes them, and its attributes."""
    form, columns = int_grid(weight.format), weight.columns
    blocks = form.groups(columns)
    packed = weight.tensors["packed"]
    if missing := blocks * form.group_size - columns:
        rows = rows_of(weight)

        def filled(start: int, stop: int) -> Tensor:
            return torch.nn.functional.pad(rows(start, stop), (0, missing))

        packed = packed_rows(filled, weight.rows, columns + missing, form.bits)
    held = weight.tensors.get("zero_point")
    zeros = None if held is None else pack(held, form.bits).contiguous().numpy()
    codes = packed.contiguous().numpy().reshape(weight.rows, blocks, -1)
    attributes = {"K": columns, "N": weight.rows, "bits": form.bits, "block_size": form.group_size}
    return (codes, weight.tensors["scale"].numpy(), zeros), attributes


def table_codes(tensor: Any) -> Array:
    """Codes of a table ``(rows, columns)`` of 8 bits, unsigned."""
    codes = StoredCodes.of(tensor)
    rows, columns = tensor.shape
    return packed_rows(codes.rows, rows, columns, 8).numpy()


def _whole(tensor: Any) -> Array:
    """Zero points as uint8, in their shape."""
    return StoredCodes.of(tensor).rows(0, tensor.shape[0]).numpy().reshape(tensor.shape.numpy())


def _tensor(array: Array) -> Tensor:
    return torch.from_numpy(np.array(array, order="C"))  # a copy: a file's memory is read-only
