"""Codes of an earlier compile, for a recipe whose rounding learned from calibration data.

Rounding to nearest follows from scales alone. Codes that compensate errors do not: they are
read from the ``model.pt2`` beside the recipe, or where a compile wrote none, from
``codes.safetensors``, which it writes then.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from awqc.errors import UsageError
from awqc.numerics.formats.base import QuantizedWeight, WeightFormat
from awqc.program import Program

ARCHIVE = "model.pt2"
CODES_FILE = "codes.safetensors"


def write_codes(program: Program, folder: Path) -> None:
    """Write ``codes.safetensors`` into ``folder`` unless an archive there holds the codes."""
    if (folder / ARCHIVE).exists():
        return
    tensors: dict[str, Tensor] = {}
    for name, quantized in program.quantized.items():
        tensors |= {f"{name}.{role}": value for role, value in quantized.tensors.items()}
    save_file({key: value.contiguous() for key, value in tensors.items()}, folder / CODES_FILE)


def read_codes(folder: Path) -> dict[str, Tensor]:
    """Packed codes, scales and zero points by name.

    Raises:
        UsageError: there are none, or they cannot be read.
    """
    path = folder / ARCHIVE if (folder / ARCHIVE).exists() else folder / CODES_FILE
    try:
        if path.name == CODES_FILE:
            return load_file(path)
        return dict(torch.export.load(path).state_dict)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise UsageError(
            f"{path}: the codes of this recipe cannot be read ({error}). Keep {ARCHIVE} or "
            f"{CODES_FILE} beside it, or compile anew with --calib"
        ) from error


def weight_of_codes(
    codes: Mapping[str, Tensor], name: str, weight: Tensor, form: WeightFormat
) -> QuantizedWeight:
    """What ``codes`` hold for the float ``weight`` called ``name``.

    Raises:
        UsageError: they hold nothing for it, or something of another size.
    """
    tensors = {}
    for role, wanted in form.layout(weight.shape[0], weight[0].numel()).items():
        held = codes.get(f"{name}.{role}")
        if held is None or tuple(held.shape) != wanted:
            found = "nothing" if held is None else f"something of shape {tuple(held.shape)}"
            raise UsageError(
                f"the recipe's codes hold {found} for {name}.{role}, {wanted} is needed: "
                "they belong to another model or to other options"
            )
        tensors[role] = held
    return QuantizedWeight(form, tensors, tuple(weight.shape)).to(weight.dtype)
