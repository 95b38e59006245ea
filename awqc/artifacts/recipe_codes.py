"""Codes of an earlier compile, for a recipe whose rounding learned from calibration data.

Rounding to nearest follows from scales alone. Codes that compensate errors do not: they are
read from what was published beside the recipe: ``model.pt2``, or ``model.onnx``, or ``ort/``.
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
from safetensors.torch import load_file, save_file
from torch import Tensor

from awqc.artifacts.names import ARCHIVE, MODEL, TUNED
from awqc.errors import UsageError, spelled
from awqc.numerics.qparams import Granularity, QuantizedWeight, quantized_weight
from awqc.program import Program
from awqc.pt2.failures import DamagedError, NotAllowedError
from awqc.pt2.read import read_weights

CODES_FILE = "codes.safetensors"


class Codes(Protocol):
    """Somewhere that codes are found."""

    def find(self, name: str, weight: Tensor, granularity: Granularity) -> QuantizedWeight | None:
        """What is held for the float ``weight`` called ``name``, or None.

        Raises:
            UsageError: what is held is of another size.
        """
        ...


class TensorCodes:
    """Packed codes, scales and zero points as tensors, by the names that a program has."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors

    def find(self, name: str, weight: Tensor, granularity: Granularity) -> QuantizedWeight | None:
        """As `Codes` has it."""
        packed, scale = (self._tensors.get(f"{name}.{role}") for role in ("packed", "scale"))
        if packed is None or scale is None:
            return None
        columns = weight[0].numel()
        zero_point = self._tensors.get(f"{name}.zero_point")
        groups = (weight.shape[0], granularity.groups(columns))
        sizes = (weight.shape[0], -(-columns * granularity.storage_bits // 8))
        if tuple(scale.shape) != groups or tuple(packed.shape) != sizes:
            raise _misfit(f"scales of shape {tuple(scale.shape)}", name, groups)
        if (zero_point is None) != granularity.symmetric:
            raise _misfit("other zero points", name, groups)
        return QuantizedWeight(
            packed, columns, scale.to(weight.dtype), zero_point, granularity, tuple(weight.shape)
        )


class OnnxFile:
    """The initializers of an ONNX model."""

    def __init__(self, path: Path) -> None:
        from awqc.artifacts.recipe_onnx import OnnxCodes

        self._codes = OnnxCodes(path)

    def find(self, name: str, weight: Tensor, granularity: Granularity) -> QuantizedWeight | None:
        """As `Codes` has it."""
        found = self._codes.find(name, weight.shape[0], weight[0].numel(), granularity)
        if found is None:
            return None
        zero_point = torch.empty(0) if found.zero_point is None else found.zero_point
        return quantized_weight(weight, found.codes, found.scale, zero_point, granularity)


def write_codes(program: Program, folder: Path) -> None:
    """Write ``codes.safetensors`` into ``folder``, with what no artifact there holds exactly."""
    if (folder / ARCHIVE).exists():
        return
    models = [OnnxFile(path) for path in _onnx_files(folder)]
    tensors = {}
    for name, quantized in program.quantized.items():
        if any(_holds(model, name, quantized) for model in models):
            continue
        tensors[f"{name}.packed"] = quantized.packed
        tensors[f"{name}.scale"] = quantized.scale
        if quantized.zero_point is not None:
            tensors[f"{name}.zero_point"] = quantized.zero_point
    if tensors:
        save_file({key: value.contiguous() for key, value in tensors.items()}, folder / CODES_FILE)


def _holds(model: Codes, name: str, quantized: QuantizedWeight) -> bool:
    """Whether ``model`` gives back ``quantized``, bit by bit."""
    like = quantized.scale.new_empty(1).expand(quantized.shape)
    found = model.find(name, like, quantized.granularity)
    if found is None:
        return False
    pairs = [(found.packed, quantized.packed), (found.scale, quantized.scale)]
    if found.zero_point is not None and quantized.zero_point is not None:
        pairs.append((found.zero_point, quantized.zero_point))
    return all(torch.equal(first, second) for first, second in pairs)


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
    f"Keep {ARCHIVE}, {MODEL}, {TUNED}/ or {CODES_FILE} beside it, as the compile left them, or "
    f"compile anew with {spelled('calib')}"
)


def _onnx_files(folder: Path) -> list[Path]:
    return [path for path in (folder / MODEL, folder / TUNED / MODEL) if path.exists()]


def stored_weight(
    codes: list[Codes], name: str, weight: Tensor, granularity: Granularity
) -> QuantizedWeight:
    """What ``codes`` hold for the float ``weight`` called ``name``.

    Raises:
        UsageError: they hold nothing for it, or something of another size.
    """
    for source in codes:
        found = source.find(name, weight, granularity)
        if found is not None:
            return found
    raise _misfit("nothing", name, (weight.shape[0], granularity.groups(weight[0].numel())))


def _misfit(found: str, name: str, wanted: tuple[int, int]) -> UsageError:
    return UsageError(
        f"the recipe's codes hold {found} for {name}, scales of shape {wanted} are needed: "
        "they belong to another model or to other options"
    )
