"""What a program gives when it chooses as an exported form does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from awqc.graph.choices import EQUAL, chooses, chosen_again
from awqc.program import Batch, Program

ONNX = ("onnx", "ort")


def choosing_as(
    program: Program, file: Path, form: str
) -> Callable[[Batch], tuple[Tensor, ...]] | None:
    """What ``program`` gives with the choices of ``file``, where they are as good but for rounding.

    None where it chooses nothing by values, or the ``form`` cannot say what it chooses.
    """
    if form not in ONNX or not chooses(program.graph):
        return None
    from awqc.runtimes.chosen import ChoicesOf

    opened = ChoicesOf(file, "cpu")

    def run(batch: Batch) -> tuple[Tensor, ...]:
        with chosen_again(opened.choices(batch), EQUAL):
            return program.run(batch)

    return run
