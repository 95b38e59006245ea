"""Samples as batches: those of equal sizes together."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from awqc.data.batches import batched_inputs, check_batch, fixed_batch_size
from awqc.data.calibration import embedding_rows
from awqc.errors import CalibrationError
from awqc.program import Batch, Program

BATCH = 8
"""Samples that are run at once, at most."""


class Grouped:
    """Samples of a program's inputs, each alone, that become batches."""

    def __init__(self, program: Program) -> None:
        self._program, self._rows = program, embedding_rows(program)
        self._fixed = fixed_batch_size(program.inputs)
        self._waiting: dict[tuple[torch.Size, ...], list[Batch]] = {}
        self._smallest: tuple[int, str, Batch] | None = None
        self.batches: list[Batch] = []

    def add(self, source: str, inputs: Mapping[str, Tensor]) -> None:
        """Take in the ``inputs`` that one sample gave; ``source`` is where it came from.

        Raises:
            CalibrationError: they are not what the program takes.
        """
        specs = self._program.inputs
        missing = [spec.name for spec in specs if spec.name not in inputs]
        if missing:
            raise CalibrationError(
                f"{source}: the processor makes {', '.join(inputs)} of it; {self._program.name} "
                f"needs {missing[0]}"
            )
        given = {spec.name: inputs[spec.name] for spec in specs}
        batch, _ = check_batch(given, specs, self._rows, source, free_batch=True)
        size = sum(value.numel() for value in batch.values())
        if self._smallest is None or size < self._smallest[0]:
            self._smallest = (size, source, batch)
        alike = self._waiting.setdefault(tuple(value.shape for value in batch.values()), [])
        alike.append(batch)
        if len(alike) == (self._fixed or BATCH):
            self._close(alike)

    def finish(self) -> int:
        """Make batches of what waits; returns how many samples fill none, where sizes are fixed.

        Raises:
            CalibrationError: the program fails on the smallest sample.
        """
        waiting = [alike for alike in self._waiting.values() if alike]
        left = sum(map(len, waiting)) if self._fixed is not None else 0
        for alike in waiting if self._fixed is None else ():
            self._close(alike)
        if self._smallest is not None and self._fixed is None:
            self._try_smallest()
        return left

    def _close(self, alike: list[Batch]) -> None:
        names = batched_inputs(self._program.inputs)
        free = [
            spec.name
            for spec in self._program.inputs
            if spec.name in names or (spec.shape and isinstance(spec.shape[0], str))
        ]
        first = alike[0]
        joined = {name: torch.cat([batch[name] for batch in alike]) for name in free}
        self.batches.append({name: joined.get(name, first[name]) for name in first})
        alike.clear()

    def _try_smallest(self) -> None:
        assert self._smallest is not None
        _, source, batch = self._smallest
        try:
            self._program.run(batch)
        except Exception as error:
            sizes = ", ".join(f"{name}={list(value.shape)}" for name, value in batch.items())
            line = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise CalibrationError(
                f"{source}: gives {sizes}, on which {self._program.name} fails: {line}. It may be "
                "too short or too small for the model; leave it out"
            ) from error
