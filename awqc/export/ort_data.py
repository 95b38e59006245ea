"""A file of weights that onnxruntime can map into memory instead of reading it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir import external_data

from awqc.numerics.onnx_packed import content_of

PAGE = 4096
CHUNK = 2**24
"""Bytes that are moved at once."""
INLINE_BYTES = 1024
"""Tensors up to this size stay in the model: shapes and single numbers are needed there."""


class DataFile:
    """Tensors one after the other, each from the start of a page; equal ones are written once.

    Attributes:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: BinaryIO = path.open("w+b")
        self._places: dict[bytes, int] = {}

    def __enter__(self) -> DataFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def tensor(self, name: str, array: NDArray[Any]) -> Any:
        """A tensor called ``name``: in the file, or in the model where it is small."""
        if array.nbytes <= INLINE_BYTES:
            return ir.Tensor(array, name=name)
        content = np.ascontiguousarray(array)
        return self._place(name, content, ir.DataType.from_numpy(array.dtype), array.shape)

    def move(self, tensor: Any) -> Any:
        """``tensor`` with its content in the file, or in the model where it is small."""
        outside = isinstance(tensor, ir.ExternalTensor)
        if outside and Path(tensor.path) == self.path:
            return tensor
        if tensor.nbytes <= INLINE_BYTES:
            return external_data.convert_tensors_from_external([tensor])[0] if outside else tensor
        return self._place(tensor.name, content_of(tensor), tensor.dtype, tuple(tensor.shape))

    def keep(self, tensors: Sequence[Any]) -> list[Any]:
        """``tensors``, of which those in the file move together: nothing else stays in it.

        What was read of the file before is not valid any more.
        """
        inside = [
            isinstance(each, ir.ExternalTensor) and Path(each.path) == self.path for each in tensors
        ]
        lengths = {
            each.offset: each.length for each, mine in zip(tensors, inside, strict=True) if mine
        }
        places, end = {}, 0
        for offset in sorted(lengths):
            places[offset] = _next_page(end)
            end = places[offset] + lengths[offset]
            self._move(offset, places[offset], lengths[offset])
        self._file.truncate(end)
        self._file.flush()
        self._places.clear()
        return [
            self._at(each.name, places[each.offset], each.length, each.dtype, each.shape)
            if mine
            else each
            for each, mine in zip(tensors, inside, strict=True)
        ]

    def _move(self, start: int, target: int, length: int) -> None:
        """Move bytes of the file towards its beginning."""
        if start == target:
            return
        for done in range(0, length, CHUNK):
            self._file.seek(start + done)
            content = self._file.read(min(CHUNK, length - done))
            self._file.seek(target + done)
            self._file.write(content)

    def _place(self, name: str, array: NDArray[Any], dtype: Any, shape: tuple[int, ...]) -> Any:
        content = array.data.cast("B")
        digest = hashlib.sha256(content).digest()
        if digest not in self._places:
            self._file.seek(_next_page(self._file.seek(0, os.SEEK_END)))
            self._places[digest] = self._file.tell()
            self._file.write(content)
            self._file.flush()  # what was written may be read while more is
        return self._at(name, self._places[digest], len(content), dtype, ir.Shape(shape))

    def _at(self, name: str, offset: int, length: int, dtype: Any, shape: Any) -> Any:
        return ir.ExternalTensor(
            location=self.path.name,
            offset=offset,
            length=length,
            dtype=dtype,
            shape=shape,
            name=name,
            base_dir=self.path.parent,
        )


def _next_page(offset: int) -> int:
    """The first page that begins at ``offset`` or behind it."""
    return -(-offset // PAGE) * PAGE
