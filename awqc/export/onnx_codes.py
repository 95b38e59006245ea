"""Low-bit codes as ONNX tensors: element types, packing, block sizes."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor

from awqc.export.whole_numbers import int_grid
from awqc.numerics.formats.base import WeightFormat
from awqc.numerics.packing import pack

FUSABLE_BLOCKS = (256, 128, 64, 32, 16)
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


def code_tensor(codes: Tensor, form: WeightFormat, opset: int) -> Any:
    """Codes (or zero points, which have the same type) as a tensor of the narrow type.

    ``codes`` are uint8, one a byte, of any shape; ONNX packs them in row-major order.
    """
    dtype, bits = code_type(form, opset)
    grid = int_grid(form)
    stored = codes.contiguous()
    if grid.symmetric:
        offset = 2**bits - grid.midpoint
        stored = ((stored.to(torch.int16) + offset) % 2**bits).to(torch.uint8)
    if bits == 8:
        array = stored.numpy()
        return ir.Tensor(array.view("int8") if grid.symmetric else array)
    packed = pack(stored.reshape(1, -1), bits).reshape(-1).numpy()
    return ir.PackedTensor(packed, dtype, shape=ir.Shape(codes.shape))


def float_tensor(tensor: Tensor) -> Any:
    """Scales as an ONNX tensor of the same dtype."""
    tensor = tensor.contiguous()
    if tensor.dtype is torch.bfloat16:
        return ir.Tensor(tensor.view(torch.uint16).numpy(), dtype=ir.DataType.BFLOAT16)
    return ir.Tensor(tensor.numpy())
