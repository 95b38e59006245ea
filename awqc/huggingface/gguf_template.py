"""A GGUF file of a model, whose names, metadata and types another file of that model takes over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from awqc.errors import UsageError, spelled
from awqc.huggingface.layout import ByRows

FLOATS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""The floating types of GGUF, and those of torch."""


@dataclass(frozen=True)
class GgufTensor:
    """A tensor of a GGUF file.

    Attributes:
        name: in the file.
        type: name of its type in ggml, as ``F16`` or ``Q4_K``.
        shape: as torch has it: rows first.
        data: its bytes, row by row where it has rows.
    """

    name: str
    type: str
    shape: tuple[int, ...]
    data: Any

    @property
    def is_float(self) -> bool:
        """Whether it is not quantized."""
        return self.type in FLOATS

    def by_rows(self) -> ByRows:
        """Its values, a few rows at a time."""

        def rows(start: int, stop: int) -> Tensor:
            return self._values(self.data[start:stop]).reshape(-1, *self.shape[1:])

        return ByRows(self.shape, rows if len(self.shape) > 1 else self._whole)

    def _whole(self, start: int, stop: int) -> Tensor:
        return self._values(self.data).reshape(self.shape)[start:stop]

    def _values(self, data: Any) -> Tensor:
        from gguf import GGMLQuantizationType
        from gguf.quants import dequantize

        return torch.from_numpy(dequantize(data, GGMLQuantizationType[self.type]).copy()).float()


@dataclass(frozen=True)
class GgufTemplate:
    """A GGUF file; its tensors are mapped, and read when they are asked for.

    Attributes:
        path: of the file.
        architecture: as llama.cpp calls it.
        blocks: how many layers it says it has.
        fields: its metadata as the reader has them, by key.
        tensors: in the order of the file.
    """

    path: Path
    architecture: str
    blocks: int
    fields: Mapping[str, Any]
    tensors: tuple[GgufTensor, ...]

    @property
    def quantized(self) -> bool:
        """Whether any of its tensors is."""
        return any(not tensor.is_float for tensor in self.tensors)


def open_template(path: Path) -> GgufTemplate:
    """The GGUF file at ``path``.

    Raises:
        UsageError: it is missing, or cannot be read as one.
    """
    if not path.is_file():
        raise UsageError(f"{path}: no such file; {spelled('gguf')} takes a GGUF file of the model")
    try:
        import gguf
    except ImportError:
        raise UsageError(
            f"{path}: GGUF files are read by the package gguf, which is not installed: "
            "pip install 'awqc[hf]'"
        ) from None
    try:
        reader = gguf.GGUFReader(path)
        architecture = str(reader.fields["general.architecture"].contents())
        blocks = int(reader.fields[f"{architecture}.block_count"].contents())
        tensors = tuple(map(_tensor, reader.tensors))
    except Exception as error:
        raise UsageError(
            f"{path}: cannot be read as a GGUF file ({type(error).__name__}: {error}); give one "
            "of this model, as convert_hf_to_gguf.py of llama.cpp writes it"
        ) from error
    return GgufTemplate(path, architecture, blocks, dict(reader.fields), tensors)


def _tensor(found: Any) -> GgufTensor:
    shape = tuple(int(size) for size in reversed(found.shape))
    assert prod(shape) == int(found.n_elements)
    return GgufTensor(str(found.name), found.tensor_type.name, shape, found.data)
