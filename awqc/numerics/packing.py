"""Codes of a few bits in bytes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def pack(codes: Tensor, storage_bits: int) -> Tensor:
    """Pack codes ``(rows, columns)`` into uint8 ``(rows, ceil(columns * bits / 8))``.

    The first code sits in the lowest bits (the order of ONNX INT4 tensors and of
    onnxruntime's MatMulNBits); a row starts on a byte, its last byte is filled with zeros.
    """
    per_byte = 8 // storage_bits
    if per_byte == 1:
        return codes.to(torch.uint8)
    rows, columns = codes.shape
    missing = -columns % per_byte
    padded = torch.nn.functional.pad(codes.to(torch.uint8), (0, missing))
    lanes = padded.reshape(rows, -1, per_byte)
    packed = lanes[..., 0].clone()
    for lane in range(1, per_byte):
        packed |= lanes[..., lane] << (lane * storage_bits)
    return packed


def unpack(packed: Tensor, storage_bits: int, columns: int) -> Tensor:
    """Undo `pack`: uint8 ``(rows, columns)``."""
    per_byte = 8 // storage_bits
    if per_byte == 1:
        return packed
    mask = 2**storage_bits - 1
    lanes = [(packed >> (lane * storage_bits)) & mask for lane in range(per_byte)]
    return torch.stack(lanes, dim=-1).flatten(-2)[..., :columns]


def words_of(lanes: Sequence[Tensor], bits: int) -> Tensor:
    """Codes in int32 words, those of the first lane in the lowest ``bits``; all of one shape."""
    words = lanes[0].to(torch.int32)
    for place, lane in enumerate(lanes[1:], 1):
        words |= lane.to(torch.int32) << (place * bits)  # the top bit is the sign
    return words
