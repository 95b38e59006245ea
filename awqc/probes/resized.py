"""Batches of other sizes than a program's example."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from awqc.probes.axes import SMALLEST, FreeAxes, Sizes
from awqc.program import Batch, Program

LARGEST = 2**22
"""Elements of inputs up to which other sizes are tried."""
LARGER = 4
"""Times the example's elements, up to which they are tried as well."""
MOST_MADE = 2**28
"""Elements of all that is made of the inputs, up to which other sizes are tried."""
MASK = "attention_mask"


def resized_batch(program: Program, axes: FreeAxes, sizes: Sizes) -> Batch | None:
    """The example with ``sizes``, its elements repeated; None where that is too much to run."""
    wanted = {
        name: [int(size.subs(dict(sizes))) for size in shape] for name, shape in axes.shapes.items()
    }
    if any(size < 0 for shape in wanted.values() for size in shape):
        return None
    known = sum(value.numel() for value in program.example.values())
    most = max(LARGEST, LARGER * known)
    if sum(map(math.prod, wanted.values())) > most or axes.elements(sizes) > MOST_MADE:
        return None
    return {name: _resized(program.example[name], shape) for name, shape in wanted.items()}


def _resized(value: Tensor, sizes: list[int]) -> Tensor:
    """``value`` with ``sizes``, its elements repeated from the start along each longer axis."""
    for axis, size in enumerate(sizes):
        if size != value.shape[axis] > 0:
            value = value.index_select(axis, torch.arange(size) % value.shape[axis])
    return value


def padded_batches(program: Program) -> Iterator[tuple[str, str, Batch]]:
    """The example with a mask that hides one position more, or less, at either side.

    Masks are inputs of flags, and `MASK`; with each comes its side and the input's name.
    """
    for spec in program.inputs:
        value = program.example[spec.name]
        flags = spec.dtype is torch.bool or spec.name in (MASK, program.mask_input)
        if not flags or value.ndim == 0 or value.shape[-1] < SMALLEST or value.numel() == 0:
            continue
        for side, row, column in (("at the end", -1, -1), ("at the start", 0, 0)):
            other = value.clone()
            rows = other.reshape(-1, value.shape[-1])
            rows[row, column] = ~rows[row, column] if spec.dtype is torch.bool else 0
            yield side, spec.name, {**program.example, spec.name: rows.reshape(value.shape)}
