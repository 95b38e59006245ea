"""Weights that stay in their file, each on its own: a weight that is replaced frees its memory.

A library that maps a whole safetensors file keeps all of it in memory for as long as one
tensor of it lives.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from awqc.machine.memory import map_private

SUFFIX = ".safetensors"
FLOAT32 = "F32"


@dataclass(frozen=True)
class StoredTensor:
    """Where a float32 tensor lies in a safetensors file.

    Attributes:
        path: the file.
        shape: of the tensor.
        offset: bytes from the start of the file.
    """

    path: Path
    shape: tuple[int, ...]
    offset: int

    def map(self) -> Tensor:
        """The tensor, read when it is touched; changes to it stay private."""
        mapped = map_private(self.path, self.offset, 4 * math.prod(self.shape))
        return torch.frombuffer(mapped, dtype=torch.float32).reshape(self.shape)


def stored_tensors(path: Path) -> Iterator[tuple[str, StoredTensor]]:
    """The float32 tensors of a safetensors file that are not empty, by name.

    Source: the safetensors format: a 64-bit length, a JSON header of that length, the data.
    """
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    for name, entry in header.items():
        if name != "__metadata__" and entry["dtype"] == FLOAT32 and 0 not in entry["shape"]:
            start = 8 + length + entry["data_offsets"][0]
            yield name, StoredTensor(path, tuple(entry["shape"]), start)


def map_each(model: nn.Module, folder: Path) -> int:
    """Let parameters that equal a tensor of their name in ``folder`` read it from the file.

    Others stay as they are. Returns how many were mapped.
    """
    parameters = dict(model.named_parameters())
    count = 0
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        for name, stored in stored_tensors(path):
            parameter = parameters.get(name)
            if parameter is None or tuple(parameter.shape) != stored.shape:
                continue
            mapped = stored.map()
            if parameter.dtype == mapped.dtype and torch.equal(parameter.data, mapped):
                parameter.data = stored.map()
                count += 1
    return count
