"""Outputs that wait to be compared: large ones lie in a file, which the system can drop."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence

import torch
from torch import Tensor

from awqc.artifacts.scratch import ScratchFolder
from awqc.errors import UsageError
from awqc.machine.memory import map_private

LARGE = 2**22
"""Bytes from which on a tensor goes to the file."""
_ALIGNED = 64


class WaitingOutputs:
    """Holds tensors in a temporary file, whose name goes with it."""

    def __init__(self) -> None:
        self._folder: ScratchFolder | None = None
        self._end = 0

    def keep(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """``tensors`` with the same values; large ones are read from the file when touched.

        Raises:
            UsageError: the file cannot be written.
        """
        try:
            return tuple(self._keep(t) if t.nbytes >= LARGE else t for t in tensors)
        except OSError as error:
            size = sum(tensor.nbytes for tensor in tensors) / 1e6
            raise UsageError(
                f"{tempfile.gettempdir()}: {size:.0f} MB of outputs that are to be compared could "
                f"not be written: {error.strerror or error}; make room there, or name another "
                "folder in the environment variable TMPDIR"
            ) from error

    def _keep(self, tensor: Tensor) -> Tensor:
        if self._folder is None:
            self._folder = ScratchFolder()
        path = self._folder.path / "outputs"
        place = math.ceil(self._end / _ALIGNED) * _ALIGNED
        content = tensor.detach().contiguous().reshape(-1)
        with path.open("r+b" if self._end else "wb") as file:
            file.seek(place)
            file.write(content.view(torch.uint8).numpy().data)
        self._end = place + tensor.nbytes
        mapped = map_private(path, place, tensor.nbytes)
        return torch.frombuffer(mapped, dtype=tensor.dtype).reshape(tensor.shape)
