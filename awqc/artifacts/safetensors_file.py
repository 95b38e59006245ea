"""Write a safetensors file a tensor at a time, byte for byte as the safetensors package does.

The header needs names, types and shapes alone, so what is written need not lie in memory at once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from torch import Tensor

# From the last to the first: wide types come first, so that each tensor lies aligned.
_TYPES = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.int16: "I16",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int32: "I32",
    torch.float32: "F32",
    torch.float64: "F64",
    torch.int64: "I64",
}
_RANKS = {dtype: rank for rank, dtype in enumerate(_TYPES)}
_ALIGNED = 8


@dataclass(frozen=True)
class Unwritten:
    """A tensor that is made when it is written.

    Attributes:
        dtype: what ``make`` gives.
        shape: likewise.
        make: makes it.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    make: Callable[[], Tensor]

    @classmethod
    def of(cls, tensor: Tensor) -> Unwritten:
        """Of a tensor that is there already."""
        return cls(tensor.dtype, tuple(tensor.shape), lambda: tensor)

    @property
    def nbytes(self) -> int:
        """Size in the file."""
        return prod(self.shape) * self.dtype.itemsize


def has_type(dtype: torch.dtype) -> bool:
    """Whether a file can hold tensors of ``dtype``."""
    return dtype in _TYPES


def write_safetensors(
    tensors: Mapping[str, Unwritten], path: Path, metadata: Mapping[str, str] | None = None
) -> None:
    """Write ``tensors`` to ``path``; one of them is in memory at a time.

    Raises:
        OSError: the file cannot be written.
    """
    names = sorted(tensors, key=lambda name: (-_RANKS[tensors[name].dtype], name))
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    place = 0
    for name in names:
        tensor = tensors[name]
        end = place + tensor.nbytes
        header[name] = {
            "dtype": _TYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [place, end],
        }
        place = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNED)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            made = tensors[name].make().detach().contiguous()
            assert (made.dtype, tuple(made.shape)) == (tensors[name].dtype, tensors[name].shape)
            if made.numel():
                file.write(made.reshape(-1).view(torch.uint8).numpy().data)
