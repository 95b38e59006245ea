"""Whether a captured graph computes what the module does at other sizes than the example's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import sympy
from torch import nn

from awqc.capture.agreement import difference, tolerance
from awqc.probes.axes import FreeAxes, Sizes, free_axes, unchecked
from awqc.probes.resized import resized_batch
from awqc.probes.sizes import Attempt, attempts, breaking
from awqc.program import Batch, Program

Axis = tuple[str, int]
"""An input and one of its axes."""


@dataclass(frozen=True)
class Disagreement:
    """Sizes at which a graph gives something else than its module.

    Attributes:
        where: the sizes, in words.
        batch: inputs of these sizes.
        axes: what must stay as in the example.
        beyond: whether these sizes are next to the range that capture found, and beyond it.
    """

    where: str
    batch: Batch
    axes: frozenset[Axis]
    beyond: bool


def find_disagreement(module: nn.Module, program: Program) -> Disagreement | None:
    """Sizes at which both differ; None where none was found.

    The program is told where the module fails at all other sizes: nothing was compared then.
    """
    axes = free_axes(program)
    if axes is None:
        if name := next((str(n.target) for n in program.graph.nodes if unchecked(n)), None):
            program.tell(
                f"the model was compared at the example's sizes alone: {name} reads memory "
                "without a look at the bounds, and sizes that are made up could end the process"
            )
        return None
    trial = _Trial(module, program, axes)
    return next(trial.run(), None)


class _Trial:
    """The sizes of ``axes`` that are tried, one after the other."""

    def __init__(self, module: nn.Module, program: Program, axes: FreeAxes) -> None:
        self._module, self._program, self._axes = module, program, axes
        self._ran: list[Sizes] = []

    def run(self) -> Iterator[Disagreement]:
        """What is found at each of them."""
        for ways in attempts(self._axes):
            yield from self._first_that_runs(ways)
        for attempt in breaking(self._axes, self._ran):
            yield from self._first_that_runs([attempt])
        if not self._ran:
            self._program.tell(
                "the model fails at all other sizes of its inputs that were tried: it was "
                "compared at the example's alone"
            )

    def _first_that_runs(self, ways: Sequence[Attempt]) -> Iterator[Disagreement]:
        for attempt in ways:
            differs = self._differs(attempt.sizes)
            if differs is None:
                continue
            self._ran.append(attempt.sizes)
            if differs:
                yield self._blame(attempt)
            return

    def _differs(self, sizes: Sizes) -> bool | None:
        """Whether both differ at ``sizes``; None where the module fails."""
        batch = resized_batch(self._program, self._axes, sizes)
        change = None if batch is None else difference(self._module, self._program, batch)
        return None if change is None else change > tolerance(self._program)

    def _blame(self, attempt: Attempt) -> Disagreement:
        """One size that makes them differ by itself, or all that were changed together."""
        example, sizes = self._axes.example, attempt.sizes
        changed = [symbol for symbol in example if sizes[symbol] != example[symbol]]
        alone = ({**example, symbol: sizes[symbol]} for symbol in changed)
        sizes = next((each for each in alone if self._differs(each)), sizes)
        blamed = {symbol for symbol in changed if sizes[symbol] != example[symbol]}
        batch = resized_batch(self._program, self._axes, sizes)
        assert batch is not None
        return Disagreement(
            self._axes.describe(sizes), batch, self._showing(blamed), attempt.beyond
        )

    def _showing(self, symbols: set[sympy.Symbol]) -> frozenset[Axis]:
        return frozenset(
            (name, axis)
            for name, shape in self._axes.shapes.items()
            for axis, size in enumerate(shape)
            if size.free_symbols & symbols
        )
