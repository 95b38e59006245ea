"""The pass ``insert-observers``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from awqc.channels.analysis import find_sites
from awqc.executor.run import NO_DATA, Run
from awqc.findings import Fact, Facts
from awqc.graph.linears import Linear, find_linears
from awqc.numerics.statistics import LARGEST, MOST_COLUMNS, Accumulator
from awqc.passes.base import Change, Pass
from awqc.program import Program
from awqc.weights.decisions import decide
from awqc.weights.observing import observed_rows

OBSERVERS = "_observers"


class Observer(nn.Module):
    """Takes statistics of the activation that it is called with; returns nothing.

    Attributes:
        active: whether it looks at all; on while calibrate runs, so that no other run of
            the program counts.
    """

    _is_impure = True  # torch.fx: do not drop the call although nobody reads its result

    def __init__(
        self, linear: Linear, rows: int, seed: int, gram: bool = False, samples: int = 0
    ) -> None:
        super().__init__()
        self.key = linear.observed
        self.reads = linear.name
        self.accumulator = Accumulator(rows, seed, gram, samples)
        self.active = False
        self.bad: str | None = None
        self.mask: Tensor | None = None
        self._linear = linear

    def forward(self, x: Tensor, selected: Tensor | None = None) -> None:
        """Add ``x`` to the statistics; tokens that ``mask`` marks as padding are left out.

        So are rows that are not ``selected``, where only some rows matter.
        """
        if not self.active:
            return
        with torch.no_grad():
            rows = observed_rows(self._linear, x, self.mask, selected)
            if not self.accumulator.add(rows) and self.bad is None:
                self.bad = "nan" if bool(torch.isnan(rows).any()) else f"values beyond {LARGEST:g}"

    def __deepcopy__(self, memo: object) -> Observer:
        return self


@dataclass(frozen=True)
class InsertObservers(Pass):
    """Find the sites, and observe each value that a product to be quantized reads.

        before:  x -> linear(W1), linear(W2)
        after:   x -> linear(W1), linear(W2), observer(x)

    Options: ``rows`` of the sketch that an observer keeps of a wide activation, ``seed`` of
    its random signs, ``gram`` to keep all second moments too, which rounding by ``gptq`` needs (up
    to 32768 columns; wider weights are rounded to nearest),
    ``samples``, tokens to keep as they are, which ``runtime-numerics`` of search-scales needs.
    Refuses: weights that cannot be quantized, with the reason.
    Source: channel flow (`awqc.channels`); count sketch, Charikar et al. 2002.
    """

    rows: int = 256
    seed: int = 0
    gram: bool = False
    samples: int = 0
    name: ClassVar[str] = "insert-observers"
    keeps_output: ClassVar[bool] = True
    bars: ClassVar[Facts] = frozenset({Fact.OBSERVERS, Fact.SCALES, Fact.CODES, Fact.HALF})
    ends: ClassVar[Facts] = frozenset({Fact.STATISTICS, Fact.MOMENTS, Fact.SAMPLES})

    @property
    def gives(self) -> Facts:
        """Moments and samples only where they are asked for."""
        asked = {Fact.MOMENTS: self.gram, Fact.SAMPLES: self.samples > 0}
        return frozenset({Fact.OBSERVERS, Fact.SITES, *(fact for fact in asked if asked[fact])})

    def apply(self, program: Program, run: Run = NO_DATA) -> list[Change]:
        """Insert one call a distinct input matrix."""
        changes = []
        wanted: dict[str, Linear] = {}
        decisions = decide(program)
        skipped = {**program.findings.skipped, **decisions.refused}
        changes += [Change(name, why, refused=True) for name, why in decisions.refused.items()]
        for linear in find_linears(program.graph):
            if linear.weight_name in decisions.formats:
                wanted.setdefault(linear.observed, linear)
        sites = find_sites(program, exclude=skipped.__contains__)
        program.learn(sites=tuple(sites), skipped=skipped)
        holder = nn.Module()
        program.graph_module.add_module(OBSERVERS, holder)
        places = {node: place for place, node in enumerate(program.graph.nodes)}
        for index, linear in enumerate(wanted.values()):
            gram = self.gram and linear.columns <= MOST_COLUMNS
            if self.gram and not gram:
                why = f"{linear.columns} columns have too many moments; it is rounded to nearest"
                changes.append(Change(linear.weight_name, why))
            observer = Observer(linear, self.rows, self.seed + index, gram, self.samples)
            holder.add_module(str(index), observer)
            reads = (linear.input,) if linear.selected is None else (linear.input, linear.selected)
            with program.graph.inserting_after(max(reads, key=places.__getitem__)):
                call = program.graph.call_module(f"{OBSERVERS}.{index}", reads)
            call.meta["val"] = None
            changes.append(Change(linear.input.name, f"observed for {linear.name}"))
        return changes
