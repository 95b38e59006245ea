"""A file of weights that onnxruntime can map into memory instead of reading it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir import external_data

from awqc.numerics.onnx_packed import content_of

PAGE = 4096
INLINE_BYTES = 1024
"""Tensors up to this size stay in the model: shapes and single numbers are needed there."""


class DataFile:
    """Tensors one after the other, each from the start of a page; equal ones are written once.

    Attributes:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: BinaryIO = path.open("wb")
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

    def _place(self, name: str, array: NDArray[Any], dtype: Any, shape: tuple[int, ...]) -> Any:
        content = array.data.cast("B")
        digest = hashlib.sha256(content).digest()
        if digest not in self._places:
            self._file.seek(-(-self._file.tell() // PAGE) * PAGE)
            self._places[digest] = self._file.tell()
            self._file.write(content)
        return ir.ExternalTensor(
            location=self.path.name,
            offset=self._places[digest],
            length=len(content),
            dtype=dtype,
            shape=ir.Shape(shape),
            name=name,
            base_dir=self.path.parent,
        )
