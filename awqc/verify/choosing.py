"""What a program gives when it chooses as an exported form does."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from torch import Tensor

from awqc.graph.choices import EQUAL, chooses, chosen_again
from awqc.program import Batch, Program

ONNX = ("onnx", "ort")


class ChoosingAs(Protocol):
    """A program that chooses as a form of it does."""

    def __call__(self, batch: Batch, taken: Batch | None = None) -> tuple[Tensor, ...]:
        """Its outputs; ``taken`` is what the form takes for the same, where that differs."""


def choosing_as(program: Program, file: Path, form: str) -> ChoosingAs | None:
    """What ``program`` gives with the choices of ``file``, where they are as good but for rounding.

    None where it chooses nothing by values, or the ``form`` cannot say what it chooses.
    """
    if form not in ONNX or not chooses(program.graph):
        return None
    from awqc.runtimes.chosen import ChoicesOf

    opened = ChoicesOf(file, "cpu")

    def run(batch: Batch, taken: Batch | None = None) -> tuple[Tensor, ...]:
        with chosen_again(opened.choices(batch if taken is None else taken), EQUAL):
            return program.run(batch)

    return run
