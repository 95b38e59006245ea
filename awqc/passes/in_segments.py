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
from awqc.findings import Fact, FloatLayer
from awqc.graph.linears import find_linears
from awqc.machine.progress import track
from awqc.machine.spool import Spool
from awqc.numerics.statistics import Statistics
from awqc.passes.base import Change, Pass
from awqc.passes.calibrate import Calibrate
from awqc.passes.fold_scales import FoldScales
from awqc.passes.order import after
from awqc.passes.quantize_weights import QuantizeWeights
from awqc.passes.search_scales import SearchScales
from awqc.program import Batch, Program
from awqc.weights.decisions import decide

ORDER: tuple[type[Any], ...] = (Calibrate, SearchScales, FoldScales, QuantizeWeights)
"""What one segment goes through; nothing in it looks beyond the segment."""

LEARNED = frozenset({Fact.STATISTICS, Fact.MOMENTS, Fact.SAMPLES})
"""What is forgotten of a segment when it is done."""

BOUND = 2**28
"""Bytes of calibration values between two segments that stay in memory; others go to a file."""

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


@dataclass
class _Stream:
    """What lives between two segments, by name.

    Attributes:
        batches: for each calibration batch.
        check: for the batch on which folds are proved.
        watched: for the batch on which layers are compared; None: they are not.
    """

    batches: list[Batch]
    check: Batch
    watched: Batch | None

    def go_on(self, part: Section, run: Run, needed: set[str]) -> None:
        """Past ``part``, of which ``run`` holds what it made; what is not ``needed`` is let go."""
        outputs = dict(zip(part.program.outputs, run.reference, strict=True))
        self.check = _kept({**self.check, **outputs}, needed)
        spool = Spool("activations between two segments", BOUND)
        for number, made in enumerate(run.made):
            self.batches[number] = _kept({**self.batches[number], **spool.keep(made)}, needed)
            run.made[number] = {}


def _kept(values: Batch, needed: set[str]) -> Batch:
    return {name: value for name, value in values.items() if name in needed}


def run_in_segments(
    steps: Sequence[Pass],
    program: Program,
    run: Run,
    segments: Sequence[Segment],
    apply: Apply,
    before_quantization: Look,
    watched: Batch | None,
) -> list[Change]:
    """Run ``steps`` on each of ``segments``, and the last of them on what several of these read.

    Args:
        steps: what `segment_passes` gives.
        program: the whole; its graph is edited at the end.
        run: data for the whole.
        segments: all of it.
        apply: runs a pass on a segment.
        before_quantization: called with each segment before the pass that makes codes, and what
            ``watched`` is there.
        watched: a batch.
    """
    parts = Sections(program, segments)
    settled = decide(program)
    stream = _Stream([dict(batch) for batch in run.batches], dict(program.check_batch()), watched)
    changes: list[Change] = []
    for index in track(range(len(parts)), "segments"):
        own = parts.own_weights(index)
        part = parts.part(index, stream.check)
        part.program.learn(settled=settled.of(own))
        last = index == len(parts) - 1
        here = Run(tuple(stream.batches), onward=() if last else part.onward)
        here = here.referring_to(part.program)
        passed = _watch(stream, part)
        for step in steps:
            if Fact.CODES in step.gives and stream.watched is not None:
                look(part.program, before_quantization, stream.watched)
            changes += apply(step, part.program, here)
        stream.go_on(part, here, parts.needed(index))
        stream.watched = None if passed is None else _kept(passed, parts.needed(index))
        part.program.learn(settled=None, statistics=_of_others(part.program, own))
        parts.finish(part.program)
        run.settle()
    parts.join()
    facts = program.findings.facts
    for step in steps[:-1]:
        facts = after(step, facts)
    program.learn(facts=facts)
    rest = set(settled.formats) - set(program.findings.quantized)
    program.learn(settled=replace(settled.of(rest), fallbacks=settled.fallbacks))
    changes += apply(steps[-1], program, replace(run, reference=()))
    program.learn(settled=None, statistics={}, facts=program.findings.facts - LEARNED)
    return changes


def look(program: Program, before_quantization: Look, batch: Batch) -> None:
    """Let ``program`` know what ``before_quantization`` takes of it."""
    taken = before_quantization(program, batch)
    program.learn(float_layers={**program.findings.float_layers, **taken})


def _watch(stream: _Stream, part: Section) -> Batch | None:
    """What is watched behind ``part``."""
    if stream.watched is None:
        return None
    outputs = part.program.run(stream.watched)
    return {**stream.watched, **dict(zip(part.program.outputs, outputs, strict=True))}


def _of_others(program: Program, own: set[str]) -> dict[str, Statistics]:
    """Statistics of products whose weight other segments read too; the whole rounds it."""
    readers = {n.node.name for n in find_linears(program.graph) if n.weight_name not in own}
    return {name: each for name, each in program.findings.statistics.items() if name in readers}
