"""Codes that an ONNX tensor holds, unpacked a few rows or columns at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor

from awqc.numerics.onnx_types import WIDTHS
from awqc.numerics.packing import pack, unpack

Rows = Callable[[int, int], Tensor]
"""Makes rows ``start`` to ``stop`` of uint8 codes, one a byte; ``start`` is a multiple of 8."""

CODES_AT_ONCE = 2**22
"""Codes of a weight that lie unpacked in memory, one a byte."""


@dataclass(frozen=True)
class StoredCodes:
    """Codes ``(rows, columns)`` of an ONNX tensor, as unsigned numbers.

    Attributes:
        packed: uint8 ``(rows, bytes)``, mapped from the file where there is one.
        columns: how many there are.
        bits: of a code in ``packed``.
        wide: of a code of the tensor.
        lift: what makes a code unsigned, modulo ``2**wide``.
    """

    packed: Tensor
    columns: int
    bits: int
    wide: int
    lift: int

    @classmethod
    def of(cls, tensor: Any) -> StoredCodes:
        """Of a tensor of any shape; its first axis are the rows."""
        bits, size, rows = WIDTHS[tensor.dtype], int(tensor.size), int(tensor.shape[0])
        columns = size // max(rows, 1)
        content = torch.from_numpy(content_of(tensor))
        wide, lift = bits, 2 ** (bits - 1) if tensor.dtype.is_signed() else 0
        if columns * bits % 8:  # a row ends inside of a byte
            content, bits = unpack(content.reshape(1, -1), bits, size), 8
        return cls(content.reshape(rows, -1), columns, bits, wide, lift)

    def rows(self, start: int, stop: int) -> Tensor:
        """Rows ``start`` to ``stop``, one code a byte."""
        return self._unsigned(self.packed[start:stop], self.columns)

    def turned(self, start: int, stop: int) -> Tensor:
        """Columns ``start`` to ``stop``, as rows; ``start`` is a multiple of 8."""
        per_byte = 8 // self.bits
        cut = self.packed[:, start // per_byte : -(-stop // per_byte)]
        return self._unsigned(cut, stop - start).T

    def _unsigned(self, packed: Tensor, columns: int) -> Tensor:
        codes: Tensor = (unpack(packed, self.bits, columns) + self.lift) & (2**self.wide - 1)
        return codes


def content_of(tensor: Any) -> NDArray[Any]:
    """The bytes of an ONNX tensor; of one in a file they are mapped, and changes stay private."""
    if isinstance(tensor, ir.ExternalTensor) and tensor.nbytes:
        return np.memmap(tensor.path, np.uint8, "c", tensor.offset or 0, (tensor.nbytes,))
    return np.frombuffer(bytearray(tensor.tobytes()), np.uint8)


def packed_rows(rows: Rows, count: int, width: int, bits: int) -> Tensor:
    """``count`` rows of ``width`` codes, each packed into whole bytes: uint8 ``(count, bytes)``."""
    packed = torch.empty((count, -(-width * bits // 8)), dtype=torch.uint8)
    step = rows_at_once(width)
    for start in range(0, count, step):
        stop = min(start + step, count)
        packed[start:stop] = pack(rows(start, stop), bits)
    return packed


def rows_at_once(width: int) -> int:
    """How many rows of ``width`` codes lie unpacked in memory: 8, or a multiple of it."""
    return max(1, CODES_AT_ONCE // max(8 * width, 1)) * 8
