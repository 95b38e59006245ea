"""Codes of an earlier compile, read back from the GGUF file that it wrote.

Which tensor of the file holds a weight, and in which order its rows lie there, is written beside
it: ``places.safetensors`` has for each weight the rows, none where they lie in order, and in its
metadata the tensor's name.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from awqc.artifacts.names import GGUF
from awqc.artifacts.safetensors_file import Unwritten, write_safetensors
from awqc.errors import UsageError
from awqc.numerics.formats.base import QuantizedWeight, WeightFormat
from awqc.numerics.formats.ggml_blocks import block_bytes, weight_of_blocks
from awqc.program import Program

PLACES_FILE = "places.safetensors"


def write_places(program: Program, folder: Path) -> None:
    """Write `PLACES_FILE` into ``folder``, of the weights that are quantized."""
    target = program.findings.gguf
    assert target is not None
    rows: dict[str, Unwritten] = {}
    names: dict[str, str] = {}
    for tensor, place in target.places.items():
        if place.source in program.findings.quantized:
            order = torch.zeros(0) if place.rows is None else place.rows
            rows[place.source] = Unwritten.of(order.to(torch.int32))
            names[place.source] = tensor
    write_safetensors(rows, folder / PLACES_FILE, metadata=names)


class GgufCodes:
    """The quantized tensors of a GGUF file, by the names that a program has.

    Raises:
        UsageError: it cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        from gguf import GGUFReader

        try:
            with safe_open(folder / PLACES_FILE, framework="pt") as file:
                names: Mapping[str, str] = file.metadata() or {}
                self._rows: dict[str, Tensor] = {name: file.get_tensor(name) for name in names}
            tensors = {each.name: each for each in GGUFReader(folder / GGUF).tensors}
            self._tensors: dict[str, Any] = {
                name: tensors[tensor] for name, tensor in names.items() if tensor in tensors
            }
        except Exception as error:
            raise UsageError(
                f"{folder / GGUF}: cannot be read ({type(error).__name__}: {error})"
            ) from error

    def find(self, name: str, weight: Tensor, form: WeightFormat) -> QuantizedWeight | None:
        """What is held for the float ``weight`` called ``name`` in ``form``, or None."""
        tensor = self._tensors.get(name)
        if tensor is None or weight.ndim != 2:
            return None
        blocks = torch.from_numpy(tensor.data.copy())
        if blocks.dtype != torch.uint8 or tuple(blocks.shape) != block_bytes(form, weight.shape):
            return None
        rows = self._rows[name].long()
        if len(rows):
            blocks = blocks[torch.argsort(rows)]
        return weight_of_blocks(form, blocks, tuple(weight.shape)).to(weight.dtype)
