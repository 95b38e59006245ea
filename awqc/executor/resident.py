"""A whole program on another device, for as long as it is run there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch

from awqc.machine.devices import CPU, free_on, placed
from awqc.program import Program

ROOM = 2
"""Times its weights that must be free there: values between them take room as well."""


@contextmanager
def resident(program: Program, device: torch.device) -> Iterator[Program]:
    """``program`` with all that it reads on ``device``, where that fits; itself, where it does not.

    It takes and gives tensors of the CPU. Weights are brought there once, whatever is run.
    """
    if device == CPU or ROOM * _bytes(program) > free_on(device):
        yield program
        return
    there = replace(program, graph_module=placed(program.graph_module, device), device=device)
    try:
        yield there
    finally:
        for note in there.notes:
            program.tell(note)
        for part in there.graph_module.modules():  # A module is a cycle, freed at some later time.
            part._parameters.clear()
            part._buffers.clear()


def _bytes(program: Program) -> int:
    """What its tensors take, floating ones in float32."""
    tensors = program.parameters().values()
    return sum(each.numel() * max(each.dtype.itemsize, 1) for each in tensors)
