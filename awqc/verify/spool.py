"""Outputs that wait to be compared: large ones lie in a file, which the system can drop."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from awqc.artifacts.scratch import ScratchFolder
from awqc.machine.memory import map_private

LARGE = 2**22
"""Bytes from which on a tensor goes to the file."""
_ALIGNED = 64


class Spool:
    """Holds tensors; its file goes when neither it nor a process needs it any more."""

    def __init__(self) -> None:
        self._folder: ScratchFolder | None = None
        self._end = 0

    def keep(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """``tensors`` with the same values; large ones are read from the file when touched.

        Raises:
            OSError: the file cannot be written.
        """
        return tuple(self._keep(t) if t.nbytes >= LARGE else t for t in tensors)

    def _keep(self, tensor: Tensor) -> Tensor:
        if self._folder is None:
            self._folder = ScratchFolder()
        path = self._folder.path / "outputs"
        place = math.ceil(self._end / _ALIGNED) * _ALIGNED
        content = tensor.detach().contiguous().reshape(-1)
        with path.open("r+b" if self._end else "wb") as file:
            file.seek(place)
            file.write(memoryview(content.view(torch.uint8).numpy()))
        self._end = place + tensor.nbytes
        mapped = map_private(path, place, tensor.nbytes)
        return torch.frombuffer(mapped, dtype=tensor.dtype).reshape(tensor.shape)
