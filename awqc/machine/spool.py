"""Tensors that are kept for later: some in memory, the rest mapped from a temporary file."""

from __future__ import annotations

import math
import os
import tempfile
import weakref
from io import FileIO
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from awqc.errors import ExportError
from awqc.machine.memory import map_private

T = TypeVar("T")
_ALIGNED = 64


class Spool:
    """Keeps tensors; its file has no name, and goes when no tensor in it is held any more.

    Args:
        what: what is kept, in words.
        bound: bytes in memory beyond which tensors go to the file.
        small: tensors of fewer bytes stay in memory, and do not count.
    """

    def __init__(self, what: str, bound: int = 0, small: int = 1) -> None:
        self._what, self._left, self._small = what, bound, small
        self._file: FileIO | None = None

    def keep(self, value: T) -> T:
        """``value``, a tree of tensors and other leaves; what is in the file is read when touched.

        Raises:
            ExportError: the file cannot be written.
        """
        kept: T = pytree.tree_map_only(Tensor, self._keep, value)
        return kept

    def _keep(self, tensor: Tensor) -> Tensor:
        size = tensor.nbytes
        if size < max(self._small, 1):
            return tensor.detach()
        if size <= self._left:
            self._left -= size
            return tensor.detach()
        try:
            return self._written(tensor.detach().cpu().contiguous())
        except OSError as error:
            raise ExportError(
                f"{tempfile.gettempdir()}: {size / 1e6:.1f} MB of {self._what} could not be "
                f"written: {error.strerror or error}; make room there, or name another folder in "
                "the environment variable TMPDIR"
            ) from error

    def _written(self, tensor: Tensor) -> Tensor:
        if self._file is None:
            # It outlives this call. A buffer that the disk had no room for would fail once more
            # when the file is closed, where nobody can be told.
            self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - it stays open
            weakref.finalize(self, self._file.close)  # what is mapped stays
        place = math.ceil(self._file.seek(0, os.SEEK_END) / _ALIGNED) * _ALIGNED
        self._file.seek(place)
        left = tensor.reshape(-1).view(torch.uint8).numpy().data
        while left:
            left = left[self._file.write(left) :]
        mapped = map_private(self._file, place, tensor.nbytes)
        return torch.frombuffer(mapped, dtype=tensor.dtype).reshape(tensor.shape)
