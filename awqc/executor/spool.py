"""Values that are kept for later: in memory up to a bound, then in a temporary file."""

from __future__ import annotations

import os
import tempfile
import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from awqc.errors import UsageError

BOUND = 2**27
"""Bytes in memory, beyond which values go to the file."""


@dataclass(frozen=True)
class Kept:
    """A value in a spool.

    Attributes:
        leaves: its tensors, or where they lie in the file; what is no tensor is itself.
        tree: how they make up the value.
    """

    leaves: tuple[Any, ...]
    tree: pytree.TreeSpec

    @classmethod
    def of(cls, value: Any) -> Kept:
        """``value``, which somebody else holds in memory anyway."""
        leaves, tree = pytree.tree_flatten(value)
        return cls(tuple(leaves), tree)

    def load(self) -> Any:
        """The value."""
        leaves = [leaf.load() if isinstance(leaf, _Place) else leaf for leaf in self.leaves]
        return pytree.tree_unflatten(leaves, self.tree)


class Spool:
    """Keeps values; the file, which has no name, goes when nobody holds a value of it."""

    def __init__(self, bound: int = BOUND) -> None:
        self._left = bound
        self._file: _File | None = None

    def keep(self, value: Any) -> Kept:
        """Keep ``value``: a tensor, a tuple of tensors, or a number.

        Raises:
            UsageError: the file cannot be written.
        """
        held = Kept.of(value)
        return Kept(tuple(map(self._keep, held.leaves)), held.tree)

    def _keep(self, leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or not leaf.nbytes:
            return leaf
        if leaf.nbytes <= self._left:
            self._left -= leaf.nbytes
            return leaf.detach()
        try:
            return self._write(leaf.detach().cpu().contiguous())
        except OSError as error:
            raise UsageError(
                f"{tempfile.gettempdir()}: {leaf.nbytes / 1e6:.0f} MB of activations could not be "
                f"written: {error.strerror or error}; make room there, or name another folder in "
                "the environment variable TMPDIR"
            ) from error

    def _write(self, tensor: Tensor) -> _Place:
        if self._file is None:
            self._file = _File()
        return _Place(
            self._file, self._file.append(_bytes(tensor)), tensor.dtype, tuple(tensor.shape)
        )


class _File:
    """A temporary file that is closed when nobody holds it."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - it outlives this call
        weakref.finalize(self, self._file.close)

    def append(self, data: memoryview) -> int:
        """Write ``data`` at the end; returns where it begins."""
        offset = self._file.seek(0, os.SEEK_END)
        self._file.write(data)
        self._file.flush()
        return offset

    def read_into(self, data: memoryview, offset: int) -> None:
        """Fill ``data`` with what was written at ``offset``."""
        self._file.seek(offset)
        self._file.readinto(data)


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.reshape(-1).view(torch.uint8).numpy().data


@dataclass(frozen=True)
class _Place:
    """Where a tensor lies in a file."""

    file: _File
    offset: int
    dtype: torch.dtype
    shape: tuple[int, ...]

    def load(self) -> Tensor:
        read = torch.empty(self.shape, dtype=self.dtype)
        self.file.read_into(_bytes(read), self.offset)
        return read
