"""Weights of a published checkpoint, read by another process, against the program's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from awqc.artifacts.scratch import scratch_folder
from awqc.errors import VerificationError
from awqc.numerics.formats.base import QuantizedWeight
from awqc.program import Program
from awqc.verify.fresh_child import AT_ONCE, directions
from awqc.verify.fresh_job import ask, fresh_job

CODES_TOLERANCE = 1e-6
"""Relative difference of a dequantized weight that is rounding: both are computed in float32."""

Array = NDArray[Any]


def check_checkpoint(program: Program, folder: Path, shown: str) -> None:
    """Refuse a checkpoint whose weights, read by the format's rule, are not the program's."""
    with scratch_folder() as scratch:
        job = fresh_job("checkpoint", folder, scratch, "npz")
        ask(job, program.name, shown)
        with np.load(job["outputs"]) as made:
            products = {name: made[name] for name in made.files}
    modules = {name.rpartition(".")[0] for name in products}
    if not modules:
        raise VerificationError(f"{program.name}: {shown} holds no quantized weight: nothing was "
                                "compared; write onnx or pt2 instead")  # fmt: skip
    for module in sorted(modules):
        quantized = program.findings.quantized[f"{module}.weight"].to(torch.float32)
        check_weight(program, f"{shown} holds another weight for {module}", quantized,
                      (products[f"{module}.left"], products[f"{module}.right"]))  # fmt: skip


def check_weight(
    program: Program,
    what: str,
    weight: QuantizedWeight,
    found: tuple[Array, Array],
    rows: Tensor | None = None,
) -> None:
    """Refuse a weight whose products with the vectors of `directions` are not those of ``weight``.

    ``rows`` are the rows of ``weight`` in the order in which it was read.
    """
    for own, wanted in zip(found, _products(weight, rows), strict=True):
        moved = float("inf")
        if own.shape == wanted.shape:
            moved = float(np.abs(own - wanted).max() / max(np.abs(wanted).max(), 1e-300))
        if not moved <= CODES_TOLERANCE:
            raise VerificationError(
                f"{program.name}: {what} than the quantized model: read by the format's rule it "
                f"differs by {moved:.2g}; rounding explains {CODES_TOLERANCE:g}; please report it"
            )


def _products(weight: QuantizedWeight, rows: Tensor | None = None) -> tuple[Array, Array]:
    """The products of `directions` with ``weight``, in float64, a few rows at a time."""
    left, right = directions(weight.rows, weight.columns)
    if rows is not None:
        before, behind = _summed(weight, left[np.argsort(rows.numpy())], right)
        return before, behind[rows.numpy()]
    return _summed(weight, left, right)


def _summed(weight: QuantizedWeight, left: Array, right: Array) -> tuple[Array, Array]:
    before, behind = np.zeros(weight.columns), np.zeros(weight.rows)
    step = max(1, AT_ONCE // weight.columns)
    for start in range(0, weight.rows, step):
        stop = min(start + step, weight.rows)
        part = weight.some(start, stop).double().numpy()
        before += left[start:stop] @ part
        behind[start:stop] = part @ right
    return before, behind
