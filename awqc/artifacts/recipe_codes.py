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
from awqc.numerics.qparams import Granularity, QuantizedWeight
from awqc.program import Program

ARCHIVE = "model.pt2"
CODES_FILE = "codes.safetensors"


def write_codes(program: Program, folder: Path) -> None:
    """Write ``codes.safetensors`` into ``folder`` unless an archive there holds the codes."""
    if (folder / ARCHIVE).exists():
        return
    tensors = {}
    for name, quantized in program.findings.quantized.items():
        tensors[f"{name}.packed"] = quantized.packed
        tensors[f"{name}.scale"] = quantized.scale
        if quantized.zero_point is not None:
            tensors[f"{name}.zero_point"] = quantized.zero_point
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


def stored_weight(
    codes: Mapping[str, Tensor], name: str, weight: Tensor, granularity: Granularity
) -> QuantizedWeight:
    """What ``codes`` hold for the float ``weight`` called ``name``.

    Raises:
        UsageError: they hold nothing for it, or something of another size.
    """
    packed, scale = codes.get(f"{name}.packed"), codes.get(f"{name}.scale")
    columns = weight[0].numel()
    wanted = (weight.shape[0], granularity.groups(columns))
    if packed is None or scale is None or tuple(scale.shape) != wanted:
        found = "nothing" if scale is None else f"scales of shape {tuple(scale.shape)}"
        raise UsageError(
            f"the recipe's codes hold {found} for {name}, {wanted} is needed: "
            "they belong to another model or to other options"
        )
    zero_point = codes.get(f"{name}.zero_point")
    return QuantizedWeight(
        packed, columns, scale.to(weight.dtype), zero_point, granularity, tuple(weight.shape)
    )
