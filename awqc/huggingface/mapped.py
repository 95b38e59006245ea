"""Weights that stay in their file, each on its own: a weight that is replaced frees its memory.

A library that maps a whole safetensors file keeps all of it in memory for as long as one
tensor of it lives.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

import torch
from torch import Tensor, nn

from awqc.machine.memory import map_private
from awqc.machine.narrow import NARROW, Narrow

SUFFIX = ".safetensors"
DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


@dataclass(frozen=True)
class StoredTensor:
    """Where a floating tensor lies in a safetensors file.

    Attributes:
        path: the file.
        dtype: of the tensor, one of `DTYPES`.
        shape: of the tensor.
        offset: bytes from the start of the file.
    """

    path: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return self.dtype.itemsize * math.prod(self.shape)

    def map(self) -> Tensor:
        """The tensor, read when it is touched; changes to it stay private."""
        with self.path.open("rb") as file:
            mapped = map_private(file, self.offset, self.nbytes)
        return torch.frombuffer(mapped, dtype=self.dtype).reshape(self.shape)


def stored_tensors(path: Path) -> Iterator[tuple[str, StoredTensor]]:
    """The tensors of a safetensors file in one of `DTYPES` that are not empty, by name.

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
        dtype = DTYPES.get(str(entry.get("dtype"))) if isinstance(entry, dict) else None
        if dtype is None:
            continue
        shape, place = entry.get("shape"), entry.get("data_offsets")
        if not _are_sizes(shape) or not _are_sizes(place) or len(place) != 2 or 0 in shape:
            continue
        stored = StoredTensor(path, dtype, tuple(shape), 8 + length + place[0])
        aligned = stored.offset % dtype.itemsize == 0
        if aligned and stored.offset + stored.nbytes <= size:
            yield name, stored


def _are_sizes(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(one) is int and one >= 0 for one in value)


def main_dtype(folder: Path) -> torch.dtype:
    """The dtype of most of the weights in the safetensors files of ``folder``; float32 if none."""
    counts: Counter[torch.dtype] = Counter()
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        for _, stored in stored_tensors(path):
            counts[stored.dtype] += math.prod(stored.shape)
    return counts.most_common(1)[0][0] if counts else torch.float32


def map_each(model: nn.Module, folder: Path) -> int:
    """Let parameters that equal a tensor of their name in ``folder`` read it from the file.

    What the file holds wins where ``model`` was loaded in a narrower dtype. Parameters in half
    precision, mapped or not, are read in float32 from now on. Returns how many were mapped.
    """
    files = sorted(folder.glob(f"*{SUFFIX}"))
    stored = {name: each for path in files for name, each in stored_tensors(path)}
    made: dict[int, nn.Parameter] = {}
    count = 0
    for name, parameter in list(model.named_parameters(remove_duplicate=False)):
        if id(parameter) not in made:
            mapped = _mapped(parameter, stored.get(name))
            count += mapped is not None
            made[id(parameter)] = _readable(parameter.data if mapped is None else mapped)
        owner, _, leaf = name.rpartition(".")
        model.get_submodule(owner)._parameters[leaf] = made[id(parameter)]
    return count


def _mapped(parameter: nn.Parameter, stored: StoredTensor | None) -> Tensor | None:
    if stored is None or tuple(parameter.shape) != stored.shape:
        return None
    if parameter.dtype.itemsize > stored.dtype.itemsize:
        return None
    same = torch.equal(parameter.data, stored.map().to(parameter.dtype))
    return stored.map() if same else None


def _readable(value: Tensor) -> nn.Parameter:
    if value.dtype in NARROW:
        return Narrow.of(value)
    return nn.Parameter(value, requires_grad=False)
