"""What one run of a pipeline works with besides the program."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from awqc.program import Batch


@dataclass(frozen=True)
class Run:
    """One run of a pipeline.

    Attributes:
        batches: the calibration data.
        reference: what the program gave for its `check_batch` before the first pass.
    """

    batches: tuple[Batch, ...] = ()
    reference: tuple[Tensor, ...] = ()


NO_DATA = Run()
"""A run without calibration data."""
