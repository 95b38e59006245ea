"""What one run of a pipeline works with besides the program, and how passes see data.

A pass asks: it never runs the whole model, and never says when memory is to be given back.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch
from torch import Tensor
from torch.fx import Node

from awqc.executor.replay import Values, walk
from awqc.executor.sweep import sweep
from awqc.graph.choices import EQUAL, Choices, chosen_again, recorded_choices
from awqc.machine.devices import CPU
from awqc.machine.memory import give_back, trim
from awqc.machine.progress import track
from awqc.machine.ranks import ALONE, Ranks
from awqc.machine.room import held
from awqc.machine.spool import Spool
from awqc.machine.threads import parallel_map
from awqc.program import Batch, Program

T = TypeVar("T")
R = TypeVar("R")

OFTEN = 40
"""Pieces of work after which weights that are mapped from a file leave memory again."""


@dataclass(frozen=True)
class Bounds:
    """Bytes of what may stay in memory; what is beyond goes to a file.

    Attributes:
        values: calibration values between two segments.
        codes: quantized weights.
        lessons: what tuning learns from, and as much of what it computes on the way.
        limit: all that the process may hold.
    """

    values: int = 2**28
    codes: int = 2**25
    lessons: int = 2**27
    limit: int = sys.maxsize

    def left(self) -> int:
        """Bytes that the limit leaves."""
        return self.limit - held()


DEFAULT_BOUNDS = Bounds()


@dataclass(frozen=True)
class Run:
    """One run of a pipeline.

    Attributes:
        batches: the calibration data.
        reference: what the program gave for its `check_batch` before the first pass.
        choices: what it chose then, see `awqc.graph.choices`.
        onward: names of outputs that are wanted for each batch, by what comes after this program.
        made: these outputs, after `observe`.
        spool: where what passes make is kept, if much is expected.
        ranks: the processes that work on the same; each has its own ``batches``.
        bounds: of what is kept in memory between segments.
        device: where passes compute; what they give back lies in ordinary memory.
    """

    batches: tuple[Batch, ...] = ()
    reference: tuple[Tensor, ...] = ()
    choices: Choices = ()
    onward: tuple[str, ...] = ()
    made: list[Batch] = field(default_factory=list)
    spool: Spool | None = None
    ranks: Ranks = ALONE
    bounds: Bounds = DEFAULT_BOUNDS
    device: torch.device = CPU

    def referring_to(self, program: Program) -> Run:
        """This run with what ``program`` gives now as the reference."""
        with recorded_choices() as choices:
            reference = program.run(program.check_batch())
        return replace(self, reference=reference, choices=tuple(choices))

    def outputs(self, program: Program) -> tuple[Tensor, ...]:
        """What ``program`` gives for its `check_batch`; it chooses as the reference did, where that
        is as good but for rounding."""
        with chosen_again(self.choices, EQUAL):
            return program.run(program.check_batch())

    def observe(
        self,
        program: Program,
        calls: Collection[Node],
        start: Callable[[Tensor | None], None],
        finish: Callable[[int], None],
        what: str,
    ) -> None:
        """Let the modules that ``calls`` call see all batches; see `sweep`."""
        self.made[:] = sweep(
            program, self.batches, calls, self.device, start, finish, what, self.onward
        )

    def side_by_side(
        self,
        program: Program,
        weights: Mapping[str, Tensor],
        stops: Collection[Node],
        before: Callable[[Node, Values, Values], Mapping[str, Tensor]],
    ) -> None:
        """Run all batches with the program's own weights, and beside them with others.

        ``weights`` are read in place of the program's own, by name. Before each of ``stops``,
        ``before`` is called with the first operand's values in both runs; the weights that it
        returns are read from there on.
        """
        own = len(self.batches)

        def both(node: Node, values: Values) -> Mapping[str, Tensor]:
            return before(node, values[:own], values[own:])

        walk(program, [*self.batches, *self.batches], weights, stops, own, both)

    def each(
        self, work: Callable[[T], R], items: Sequence[T], what: str, on_device: bool = True
    ) -> Iterator[R]:
        """Results of ``work`` for ``items``, in order; memory is given back in between.

        Items are shared out among the ranks; each of them gets all results. A device is fed by
        one thread: several only wait for each other. ``on_device``: whether work goes there.
        """
        spread = map if on_device and self.device != CPU else parallel_map
        results = self.ranks.each(lambda own: iter(spread(work, own)), items)
        for count, result in enumerate(track(results, what, len(items)), 1):
            yield result
            trim()
            if count % OFTEN == 0:
                self._give_back()

    def keep(self, value: T) -> T:
        """``value``, a tree whose tensors stay until the compile ends; some may go to a file."""
        return value if self.spool is None else self.spool.keep(value)

    def trim(self) -> None:
        """Give back what is free; weights that are mapped from a file stay in memory."""
        trim()

    def settle(self) -> None:
        """Give back what a pass no longer needs."""
        trim()
        self._give_back()

    def _give_back(self) -> None:
        """Let mapped weights leave memory; not where they go on to a device.

        They are read once for each time that they are brought there, and what tells which of them
        may go takes a tenth of a second in a process that uses CUDA. The system drops them where
        memory is short.
        """
        if self.device == CPU:
            give_back()


NO_DATA = Run()
"""A run without calibration data."""
