"""What the original gives on held-out batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from awqc.errors import CalibrationError
from awqc.program import Batch, Program

MAX_REFERENCE_ELEMENTS = 40_000_000
"""Elements of outputs that are kept, 160 MB in float32."""


@dataclass(frozen=True)
class Reference:
    """Outputs of the original model on held-out batches.

    Attributes:
        batches: the inputs.
        outputs: the outputs for each batch.
    """

    batches: tuple[Batch, ...]
    outputs: tuple[tuple[Tensor, ...], ...]


def take_reference(program: Program, batches: Sequence[Batch]) -> Reference:
    """Run the original on as many batches as fit into memory, at least one.

    Raises:
        CalibrationError: the model fails on a batch.
    """
    taken: list[Batch] = []
    outputs: list[tuple[Tensor, ...]] = []
    elements = 0
    for batch in batches:
        if taken and elements >= MAX_REFERENCE_ELEMENTS:
            break
        taken.append(batch)
        outputs.append(_run(program, batch))
        elements += sum(value.numel() for value in outputs[-1])
    return Reference(tuple(taken), tuple(outputs))


def in_dtypes(program: Program, batch: Batch) -> Batch:
    """``batch`` as ``program`` takes it: of a model in another dtype it has the same values."""
    return {spec.name: batch[spec.name].to(spec.dtype) for spec in program.inputs}


def _run(program: Program, batch: Batch) -> tuple[Tensor, ...]:
    try:
        return program.run(in_dtypes(program, batch))
    except (IndexError, RuntimeError, ValueError) as error:
        shapes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in batch.items())
        raise CalibrationError(
            f"{program.name} fails on a calibration batch with {shapes}: {error}; "
            "give data that the model takes, with calib"
        ) from error
