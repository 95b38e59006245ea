"""Codes of an earlier compile, for a recipe whose rounding learned from calibration data.

Rounding to nearest follows from scales alone. Codes that compensate errors do not: they are
read from what was published beside the recipe: ``model.pt2``, or ``model.onnx``, ``ort/`` or
``model.gguf``.
Weights that none of these holds exactly are in ``codes.safetensors``, which is written for them
alone. Nothing is unpickled.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from awqc.artifacts.names import ARCHIVE, GGUF, MODEL, TUNED
from awqc.artifacts.recipe_gguf import PLACES_FILE, GgufCodes, write_places
from awqc.artifacts.safetensors_file import Unwritten, write_safetensors
from awqc.errors import UsageError, spelled
from awqc.numerics.formats.base import QuantizedWeight, WeightFormat
from awqc.numerics.formats.int_grid import IntGrid, weight_of_bytes
from awqc.program import Program
from awqc.pt2.failures import DamagedError, NotAllowedError
from awqc.pt2.read import read_weights

CODES_FILE = "codes.safetensors"


class Codes(Protocol):
    """Somewhere that codes are found."""

    def find(self, name: str, weight: Tensor, form: WeightFormat) -> QuantizedWeight | None:
        """What is held for the float ``weight`` called ``name``, or None.

        Raises:
            UsageError: what is held is of another size.
        """
        ...


class TensorCodes:
    """Packed codes, scales and zero points as tensors, by the names that a program has."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors

    def find(self, name: str, weight: Tensor, form: WeightFormat) -> QuantizedWeight | None:
        """As `Codes` has it."""
        names = {role: f"{name}.{role}" for role in form.roles}
        held = {role: self._tensors[key] for role, key in names.items() if key in self._tensors}
        if form.roles[0] not in held:
            return None
        wanted = form.layout(weight.shape[0], weight[0].numel())
        found = {role: tuple(tensor.shape) for role, tensor in held.items()}
        if found != wanted:
            raise _misfit(_shapes(found), name, wanted)
        return QuantizedWeight(form, held, tuple(weight.shape)).to(weight.dtype)


class OnnxFile:
    """The initializers of an ONNX model."""

    def __init__(self, path: Path) -> None:
        from awqc.artifacts.recipe_onnx import OnnxCodes

        self._codes = OnnxCodes(path)

    def find(self, name: str, weight: Tensor, form: WeightFormat) -> QuantizedWeight | None:
        """As `Codes` has it."""
        if not isinstance(form, IntGrid):
            return None
        found = self._codes.find(name, weight.shape[0], weight[0].numel(), form)
        if found is None:
            return None
        parts = (found.codes, found.scale, found.zero_point)
        return weight_of_bytes(form, *parts, tuple(weight.shape)).to(weight.dtype)


def write_codes(program: Program, folder: Path) -> None:
    """Write ``codes.safetensors`` into ``folder``, with what no artifact there holds exactly."""
    if (folder / ARCHIVE).exists():
        return
    models: list[Codes] = [OnnxFile(path) for path in _onnx_files(folder)]
    if (folder / GGUF).exists():
        write_places(program, folder)
        models.append(GgufCodes(folder))
    tensors: dict[str, Unwritten] = {}
    for name, quantized in program.findings.quantized.items():
        if any(_holds(model, name, quantized) for model in models):
            continue
        tensors |= {
            f"{name}.{role}": Unwritten.of(value) for role, value in quantized.tensors.items()
        }
    if tensors:
        write_safetensors(tensors, folder / CODES_FILE)


def _holds(model: Codes, name: str, quantized: QuantizedWeight) -> bool:
    """Whether ``model`` gives back ``quantized``, bit by bit."""
    floating = next(t for t in quantized.tensors.values() if t.is_floating_point())
    like = floating.new_empty(1).expand(quantized.shape)
    found = model.find(name, like, quantized.format)
    return found is not None and all(
        torch.equal(found.tensors[role], tensor) for role, tensor in quantized.tensors.items()
    )


def read_codes(folder: Path) -> list[Codes]:
    """Where the codes of the recipe in ``folder`` are, in the order in which to look.

    Raises:
        UsageError: there are none, or they cannot be read.
    """
    try:
        if (folder / ARCHIVE).exists():
            return [TensorCodes(read_weights(folder / ARCHIVE))]
        found: list[Codes] = []
        if (folder / CODES_FILE).exists():
            found.append(TensorCodes(load_file(folder / CODES_FILE)))
        found += [OnnxFile(path) for path in _onnx_files(folder)]
        if (folder / PLACES_FILE).exists():
            found.append(GgufCodes(folder))
    except (
        *(OSError, RuntimeError, SafetensorError, zipfile.BadZipFile),
        *(NotAllowedError, DamagedError),
    ) as error:
        raise UsageError(
            f"{folder}: the codes of this recipe cannot be read ({error}). {_ADVICE}"
        ) from error
    if not found:
        raise UsageError(f"{folder}: the codes of this recipe are missing. {_ADVICE}")
    return found


_ADVICE = (
    f"Keep {ARCHIVE}, {MODEL}, {TUNED}/, {GGUF} or {CODES_FILE} beside it, as the compile left "
    f"them, or compile anew with {spelled('calib')}"
)


def _onnx_files(folder: Path) -> list[Path]:
    return [path for path in (folder / MODEL, folder / TUNED / MODEL) if path.exists()]


def weight_of_codes(
    codes: list[Codes], name: str, weight: Tensor, form: WeightFormat
) -> QuantizedWeight:
    """What ``codes`` hold for the float ``weight`` called ``name``.

    Raises:
        UsageError: they hold nothing for it, or something of another size.
    """
    for source in codes:
        found = source.find(name, weight, form)
        if found is not None:
            return found
    raise _misfit("nothing", name, form.layout(weight.shape[0], weight[0].numel()))


def _misfit(found: str, name: str, wanted: Mapping[str, tuple[int, ...]]) -> UsageError:
    return UsageError(
        f"the recipe's codes hold {found} for {name}, {_shapes(wanted)} is needed: they belong to "
        "another model or to other options"
    )


def _shapes(of: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{role} {shape}" for role, shape in of.items())
