"""Passes that work on one segment of a program after another, so that one at a time is in memory.

    for each segment:  calibrate, search-scales, fold-scales, quantize-weights
                       what lives behind it, for each batch, goes on to the next

What a segment gives in float does not change by folding, and it is the float values that go on: the
next segment is calibrated on what the whole would have given it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

from awqc.executor.run import Run
from awqc.executor.sections import Section, Sections
from awqc.executor.segments import Segment
from awqc.executor.stream import Stream, spool_of_values
from awqc.findings import Decisions, Fact, FloatLayer
from awqc.graph.linears import find_linears
from awqc.machine.memory import check_mapped_files
from awqc.machine.progress import track
from awqc.machine.spool import Spool
from awqc.numerics.statistics import Statistics
from awqc.passes.base import Change, Pass
from awqc.passes.calibrate import Calibrate
from awqc.passes.fold_scales import FoldScales
from awqc.passes.journal import Journal
from awqc.passes.order import after
from awqc.passes.quantize_weights import QuantizeWeights
from awqc.passes.search_scales import SearchScales
from awqc.passes.segment_record import restore
from awqc.program import Batch, Program
from awqc.weights.decisions import decide

ORDER: tuple[type[Any], ...] = (Calibrate, SearchScales, FoldScales, QuantizeWeights)
"""What one segment goes through; nothing in it looks beyond the segment."""

LEARNED = frozenset({Fact.STATISTICS, Fact.MOMENTS, Fact.SAMPLES})
"""What is forgotten of a segment when it is done."""

Apply = Callable[[Pass, Program, Run], list[Change]]
"""Runs one pass on a program, with all that belongs to it."""


Look = Callable[[Program, Batch], Mapping[str, FloatLayer]]
"""What is taken of a float program, for a batch, before its weights are quantized."""


def segment_passes(steps: Sequence[Pass]) -> tuple[Pass, ...]:
    """The first of ``steps`` that can go through one segment after another; empty if they cannot.

    They can where they are `ORDER`, up to codes, and need nothing of the whole: no file of
    statistics, and no rounding that follows the quantized model.
    """
    found = tuple(step for step, _ in takewhile(_fits, zip(steps, ORDER, strict=False)))
    return found if len(found) == len(ORDER) else ()


def _fits(pair: tuple[Pass, type[Any]]) -> bool:
    step, kind = pair
    if isinstance(step, Calibrate) and step.stats:
        return False
    if isinstance(step, QuantizeWeights) and (step.sequential or step.codes):
        return False
    return type(step) is kind


def run_in_segments(
    steps: Sequence[Pass],
    program: Program,
    run: Run,
    segments: Sequence[Segment],
    apply: Apply,
    before_quantization: Look,
    watched: Batch | None,
    journal: Journal,
) -> list[Change]:
    """Run ``steps`` on each of ``segments``, and the last of them on what several of these read.

    A segment that ``journal`` has is made again of what is kept there; it is run only where the
    values behind it are wanted and not kept.

    Args:
        steps: what `segment_passes` gives.
        program: the whole; its graph is edited at the end.
        run: data for the whole.
        segments: all of it.
        apply: runs a pass on a segment.
        before_quantization: called with each segment before the pass that makes codes, and what
            ``watched`` is there.
        watched: a batch.
        journal: has begun; what becomes of each segment is added to it.
    """
    parts = Sections(program, segments)
    settled = decide(program)
    stream = Stream([dict(batch) for batch in run.batches], dict(program.check_batch()), watched)
    run = replace(run, reference=(), spool=Spool("quantized weights", run.bounds.codes))
    needs = journal.needs(len(parts))
    sweep = _Sweep(steps, run, parts, settled, stream, needs, apply, before_quantization, journal)
    changes: list[Change] = []
    for index in track(range(len(parts)), "segments"):
        changes += sweep.segment(index)
        run.settle()
    parts.join()
    facts = program.findings.facts
    for step in steps[:-1]:
        facts = after(step, facts)
    program.learn(facts=facts)
    rest = set(settled.formats) - set(program.findings.quantized)
    program.learn(settled=replace(settled.of(rest), fallbacks=settled.fallbacks))
    changes += apply(steps[-1], program, run)
    program.learn(settled=None, statistics={}, facts=program.findings.facts - LEARNED)
    return changes


@dataclass
class _Sweep:
    """One way through all segments; arguments as of `run_in_segments`.

    Attributes:
        stream: what lives before the next segment that needs it.
        needs: for each segment, whether it does.
    """

    steps: Sequence[Pass]
    run: Run
    parts: Sections
    settled: Decisions
    stream: Stream
    needs: Sequence[bool]
    apply: Apply
    before_quantization: Look
    journal: Journal

    def segment(self, index: int) -> list[Change]:
        """Let the segment be what it is to be, from the journal if it is there."""
        own = self.parts.own_weights(index)
        part = self.parts.part(index, self.stream.check)
        part.program.learn(settled=self.settled.of(own))
        done = index in self.journal.done
        if done:
            changes = self._again(index, part)
        else:
            changes = self._through(index, part, self.steps)
        part.program.learn(settled=None, statistics=_of_others(part.program, own))
        check_mapped_files()
        if not done:
            self.journal.add(index, part.program, changes, self.stream)
        self.parts.finish(part.program)
        return changes

    def _again(self, index: int, part: Section) -> list[Change]:
        """The same from the journal."""
        if self.needs[index]:
            self._through(index, part, self.steps[:1])  # for the values behind it alone
        fold = self.steps[ORDER.index(FoldScales)]
        record = self.journal.record(index, self.run.keep)
        made = restore(part.program, record, fold, self.settled.formats)
        if index == self.journal.behind and True in self.needs[index + 1 :]:
            self.stream = self.journal.values(spool_of_values(self.run).keep)
        return made

    def _through(self, index: int, part: Section, steps: Sequence[Pass]) -> list[Change]:
        """Run ``steps`` on ``part``, and what lives before it through it."""
        last = index == len(self.parts) - 1
        onward = () if last else part.onward
        run = replace(self.run, batches=tuple(self.stream.batches), onward=onward, made=[])
        run = run.referring_to(part.program)
        passed = self.stream.watched_behind(part)
        changes: list[Change] = []
        for step in steps:
            if Fact.CODES in step.gives and self.stream.watched is not None:
                look(part.program, self.before_quantization, self.stream.watched)
            changes += self.apply(step, part.program, run)
        self.stream.go_on(part, run, passed, self.parts.needed(index))
        return changes


def look(program: Program, before_quantization: Look, batch: Batch) -> None:
    """Let ``program`` know what ``before_quantization`` takes of it."""
    taken = before_quantization(program, batch)
    program.learn(float_layers={**program.findings.float_layers, **taken})


def _of_others(program: Program, own: set[str]) -> dict[str, Statistics]:
    """Statistics of products whose weight other segments read too; the whole rounds it."""
    readers = {n.node.name for n in find_linears(program.graph) if n.weight_name not in own}
    return {name: each for name, each in program.findings.statistics.items() if name in readers}
