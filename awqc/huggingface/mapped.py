"""Weights that stay in their file, each on its own: a weight that is replaced frees its memory.

A library that maps a whole safetensors file keeps all of it in memory for as long as one
tensor of it lives.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

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

    None of a file that is empty, damaged or something else: whoever loads it says so.
    Source: the safetensors format: a 64-bit length, a JSON header of that length, the data.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 0 < length <= size - 8:
            return
        try:
            header = json.loads(file.read(length))
        except (ValueError, RecursionError):
            return
    for name, entry in header.items() if isinstance(header, dict) else ():
        if not isinstance(entry, dict) or entry.get("dtype") != FLOAT32:
            continue
        shape, place = entry.get("shape"), entry.get("data_offsets")
        if not _are_sizes(shape) or not _are_sizes(place) or len(place) != 2 or 0 in shape:
            continue
        stored = StoredTensor(path, tuple(shape), 8 + length + place[0])
        if stored.offset + 4 * math.prod(shape) <= size:
            yield name, stored


def _are_sizes(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(one) is int and one >= 0 for one in value)


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
