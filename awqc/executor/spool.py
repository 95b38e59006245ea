"""Values that are kept for later: in memory up to a bound, then in a temporary file."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from typing import IO, Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from awqc.errors import UsageError

BOUND = 2**28
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
        self._file: IO[bytes] | None = None

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
            self._file = tempfile.TemporaryFile()  # noqa: SIM115  # it outlives this call
        place = _Place(self._file, self._file.seek(0, 2), tensor.dtype, tuple(tensor.shape))
        self._file.write(memoryview(tensor.reshape(-1).view(torch.uint8).numpy()))
        self._file.flush()
        return place


@dataclass(frozen=True)
class _Place:
    """Where a tensor lies in a file."""

    file: IO[bytes]
    offset: int
    dtype: torch.dtype
    shape: tuple[int, ...]

    def load(self) -> Tensor:
        read = torch.empty(self.shape, dtype=self.dtype)
        self.file.seek(self.offset)
        self.file.readinto(memoryview(read.reshape(-1).view(torch.uint8).numpy()))  # type: ignore[attr-defined]  # typeshed's IO lacks it
        return read
