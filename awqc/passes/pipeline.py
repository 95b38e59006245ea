"""The pipeline: passes in order, with everything around them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from awqc.errors import UsageError, spelled
from awqc.executor.run import DEFAULT_BOUNDS, Bounds, Run
from awqc.executor.segments import Segment, cut
from awqc.findings import NO_FACTS, Fact, Facts
from awqc.machine.devices import CPU, within_memory
from awqc.machine.ranks import ALONE, Ranks
from awqc.passes.allocate_bits import AllocateBits
from awqc.passes.base import Change, Pass
from awqc.passes.calibrate import Calibrate
from awqc.passes.canonicalize import Canonicalize
from awqc.passes.compile_identity import identify
from awqc.passes.convert_dtype import DTYPES, HALVES, ConvertDtype
from awqc.passes.fold_scales import FoldScales
from awqc.passes.in_segments import Look, look, run_in_segments, segment_passes
from awqc.passes.insert_observers import InsertObservers
from awqc.passes.invariants import check_invariants
from awqc.passes.journal import Journal
from awqc.passes.load_scales import LoadScales
from awqc.passes.order import after, check_order
from awqc.passes.quantize_weights import QuantizeWeights
from awqc.passes.search_scales import SearchScales
from awqc.passes.spelling import build, read, spell_all
from awqc.passes.tune_scales import TuneScales
from awqc.passes.untie_head import UntieHead
from awqc.program import Batch, Program
from awqc.weights.tuning.teacher import take_teacher

PASSES: dict[str, type[Any]] = {
    cls.name: cls
    for cls in (
        Canonicalize,
        UntieHead,
        InsertObservers,
        Calibrate,
        SearchScales,
        LoadScales,
        FoldScales,
        AllocateBits,
        QuantizeWeights,
        TuneScales,
        ConvertDtype,
    )
}
GIVERS: tuple[Pass, ...] = (
    InsertObservers(),
    InsertObservers(gram=True),
    InsertObservers(samples=64),
    Calibrate(),
    SearchScales(),
    QuantizeWeights(),
    QuantizeWeights(keep_float=True),
    ConvertDtype("float16"),
)
"""What to propose where a fact is missing; one of them at least for each fact."""

DEFAULT_PASSES: tuple[type[Any], ...] = (
    Canonicalize,
    InsertObservers,
    Calibrate,
    SearchScales,
    FoldScales,
    QuantizeWeights,
)
DEFAULT = spell_all([cls() for cls in DEFAULT_PASSES])

LEARNING = (InsertObservers, Calibrate, AllocateBits, TuneScales)
"""Passes that need calibration data; a recipe holds what they found."""

Observe = Callable[[Pass, Program, Program, list[Change]], None]
"""Called after each pass with the pass, the program before and after, and the changes."""


@dataclass(frozen=True)
class Pipeline:
    """Passes to run in order, each of which finds what it needs.

    Attributes:
        passes: the passes.
        facts: what holds of the program before the first.
        timing: seconds by pass name, after `run`.

    Raises:
        UsageError: a pass stands where it cannot run.
    """

    passes: tuple[Pass, ...]
    facts: Facts = NO_FACTS
    timing: dict[str, float] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        check_order(self.passes, GIVERS, self.facts)

    def __str__(self) -> str:
        """The one line that `parse_pipeline` reads back."""
        return spell_all(self.passes)

    def files(self) -> tuple[Path, ...]:
        """Files that the passes read or write; a folder where the user gave one."""
        return tuple(
            path
            for step in self.passes
            for option in fields(step)  # type: ignore[arg-type]  # every pass is a dataclass
            if (files := option.metadata.get("files")) and getattr(step, option.name)
            for path in files(Path(getattr(step, option.name)))
        )

    def run(
        self,
        program: Program,
        batches: Sequence[Batch] = (),
        observe: Observe | None = None,
        before_quantization: Look = lambda program, watched: {},
        watched: Batch | None = None,
        cut: Callable[[Program], Sequence[Segment]] = cut,
        journal: Journal | None = None,
        ranks: Ranks = ALONE,
        bounds: Bounds = DEFAULT_BOUNDS,
        device: torch.device = CPU,
    ) -> list[Change]:
        """Run all passes on ``program``, which they edit; checks invariants after each.

        Where ``cut`` makes several segments of it, passes that can go through one segment after
        another do.

        Args:
            program: what is edited.
            batches: the calibration data.
            observe: called after each pass, each of which then works on the whole.
            before_quantization: called with the last program that is still float, or with each
                segment of it, and with what ``watched`` is there; what it gives is found.
            watched: a batch for that.
            cut: gives the segments.
            journal: keeps what becomes of each, and has what is done already; None: nothing is
                kept.
            ranks: processes that do the same, and share the batches and the work.
            bounds: of what is kept in memory between segments.
            device: where passes compute.

        Raises:
            UsageError: other facts hold of ``program``, and a pass cannot run; or the journal is
                another compile's.
            ExportError: the journal cannot be written.
            InvariantError: a pass broke one; the message names both.
        """
        check_order(self.passes, GIVERS, program.findings.facts)
        for step in self.passes:
            if isinstance(step, QuantizeWeights):
                program.quantization = step.spec
        self._check_ranks(ranks, len(batches))
        run = Run(tuple(ranks.share(batches)), ranks=ranks, bounds=bounds, device=device)
        changes: list[Change] = []
        run.settle()
        steps = list(self.passes)
        while steps:
            group = () if observe is not None else segment_passes(steps)
            segments = cut(program) if group else []
            if len(segments) > 1:
                del steps[: len(group)]
                through = self.passes[: len(self.passes) - len(steps)]
                journal = journal or Journal()
                data = replace(run, batches=tuple(batches))
                what = partial(identify, program, through, data, watched, segments)
                journal.begin(what, len(segments))
                self._teach(program, group[-1], run)
                changes += run_in_segments(
                    group,
                    program,
                    run,
                    segments,
                    self._apply,
                    before_quantization,
                    watched,
                    journal,
                )
                run = replace(run, reference=())
                continue
            step = steps.pop(0)
            if not step.keeps_output:
                run = replace(run, reference=())
            elif not run.reference:
                run = run.referring_to(program)
            if Fact.CODES in step.gives and watched is not None:
                look(program, before_quantization, watched)
            self._teach(program, step, run)
            before = program.clone() if observe is not None else None
            made = self._apply(step, program, run)
            if observe is not None and before is not None:
                observe(step, before, program, made)
            changes += made
        return changes

    def _check_ranks(self, ranks: Ranks, batches: int) -> None:
        """Refuse what several ranks cannot share."""
        if ranks.count == 1:
            return
        if batches < ranks.count:
            raise UsageError(
                f"{ranks.count} ranks share {batches} calibration batches; start at most "
                f"{max(1, batches)} of them, or give more data"
            )
        if any(isinstance(step, QuantizeWeights) and step.sequential for step in self.passes):
            raise UsageError(
                f"{spelled('sequential')} looks at all batches at once, which several ranks "
                "cannot share; start one process, or leave it out"
            )

    def _apply(self, step: Pass, program: Program, run: Run) -> list[Change]:
        """Run one pass, and all that must hold after it."""
        started = time.perf_counter()
        with within_memory(run.device, step.name):
            made = step.apply(program, run)
        program.tidy()
        program.learn(facts=after(step, program.findings.facts))
        check_invariants(program, step, run)
        run.settle()
        self._took(step, started)
        return made

    def _teach(self, program: Program, step: Pass, run: Run) -> None:
        """Keep what the float ``program`` gives where ``step`` will make codes that are tuned."""
        tuning = next((each for each in self.passes if isinstance(each, TuneScales)), None)
        if tuning and isinstance(step, QuantizeWeights) and step.needs_teacher(program):
            started = time.perf_counter()
            chosen = tuning.chosen(run.batches, run.ranks)
            with within_memory(run.device, tuning.name):
                lessons = run.bounds.lessons
                program.learn(teacher=take_teacher(program, chosen, run.device, lessons))
            self._took(tuning, started)

    def _took(self, step: Pass, started: float) -> None:
        seconds = time.perf_counter() - started
        self.timing[step.name] = self.timing.get(step.name, 0.0) + seconds

    def with_pass(self, step: Pass, before: type[Any]) -> Pipeline:
        """This pipeline with ``step`` in front of each pass of class ``before``.

        >>> pipeline = Pipeline((Canonicalize(), QuantizeWeights()))
        >>> str(pipeline.with_pass(LoadScales(), before=QuantizeWeights))
        'canonicalize,load-scales,quantize-weights'
        """
        steps: list[Pass] = []
        for each in self.passes:
            steps += [step, each] if isinstance(each, before) else [each]
        return self._of(steps)

    def with_untied_head(self) -> Pipeline:
        """This pipeline with `UntieHead`, in front of what knows weights by their names.

        >>> str(parse_pipeline("canonicalize,quantize-weights").with_untied_head())
        'canonicalize,untie-head,quantize-weights'
        """
        known = (InsertObservers, LoadScales, AllocateBits, QuantizeWeights)
        place = next(
            (place for place, each in enumerate(self.passes) if isinstance(each, known)),
            len(self.passes),
        )
        return self._of([*self.passes[:place], UntieHead(), *self.passes[place:]])

    def with_head_bits(self, bits: int) -> Pipeline:
        """This pipeline with a head of ``bits``; what it measures is counted as this one's.

        >>> str(parse_pipeline("canonicalize,quantize-weights").with_head_bits(4))
        'canonicalize,quantize-weights{head-bits=4}'
        """
        steps = [
            replace(each, spec=replace(each.spec, head_bits=bits))
            if isinstance(each, QuantizeWeights)
            else each
            for each in self.passes
        ]
        return Pipeline(tuple(steps), self.facts, self.timing)

    def without_search(self, recipe: str = "recipe.json") -> Pipeline:
        """This pipeline with scales from ``recipe`` in place of what finds them from data.

        >>> str(parse_pipeline(DEFAULT).without_search())
        'canonicalize,load-scales,fold-scales,quantize-weights'
        """
        return self._of(
            LoadScales(recipe) if isinstance(each, SearchScales) else each
            for each in self.passes
            if not isinstance(each, LEARNING)
        )

    def in_dtype(
        self, source: torch.dtype, wanted: torch.dtype | None, mixed: bool = False
    ) -> Pipeline:
        """This pipeline for a model that came in ``source`` and is to compute in ``wanted``.

        Passes compute in float32: a half or float64 model becomes that first, and so does a
        ``mixed`` one, of which parts are half. ``wanted`` comes
        last; None: as the pipeline says already, or as the model came; float64 stays float32.

        >>> str(Pipeline((Canonicalize(),)).in_dtype(torch.float16, None))
        'convert-dtype,canonicalize,convert-dtype{dtype=float16}'
        """
        opening, body, closing = self.parts()
        if (mixed or source != torch.float32) and not opening.passes:
            opening = self._of([ConvertDtype("float32")])
        last = list(closing.passes)
        if wanted is None and source in HALVES and not last:
            wanted = source
        if wanted is not None:
            name = str(wanted).removeprefix("torch.")
            last = [ConvertDtype(name)] if wanted in HALVES else []
        return self._of([*opening.passes, *body.passes, *last])

    def parts(self) -> tuple[Pipeline, Pipeline, Pipeline]:
        """What makes the program float32 at first, the rest, and what makes it half at last."""
        steps = list(self.passes)
        first = last = 0
        while first < len(steps) and _widens(steps[first]):
            first += 1
        while last < len(steps) - first and Fact.HALF in steps[-1 - last].gives:
            last += 1
        cut = len(steps) - last
        facts = self.facts
        made = []
        for part in (steps[:first], steps[first:cut], steps[cut:]):
            made.append(Pipeline(tuple(part), facts, self.timing))
            for step in part:
                facts = after(step, facts)
        return made[0], made[1], made[2]

    @property
    def dtype(self) -> torch.dtype:
        """What a float32 program computes in after these passes."""
        halves = [DTYPES[step.dtype] for step in self.passes if isinstance(step, ConvertDtype)]
        return halves[-1] if halves else torch.float32

    def _of(self, steps: Iterable[Pass]) -> Pipeline:
        return Pipeline(tuple(steps), self.facts)


def _widens(step: Pass) -> bool:
    """Whether ``step`` makes a half program float32."""
    return Fact.HALF in step.ends


def make_pipeline(
    classes: Iterable[type[Any]], options: Mapping[str, Mapping[str, Any]]
) -> Pipeline:
    """A pipeline of passes of these classes, with ``options`` as `parse_pipeline` takes them.

    Raises:
        UsageError: a value does not fit, or a pass cannot run where it stands.
    """
    return Pipeline(
        tuple(build(cls, options.get(cls.name.replace("-", "_"), {})) for cls in classes)
    )


def parse_pipeline(text: str, facts: Facts = NO_FACTS, /, **options: Mapping[str, Any]) -> Pipeline:
    """Read ``pass-a,pass-b{option=1,other-option=x}``.

    ``facts`` hold before the first pass. ``options`` are defaults for passes by name with
    underscores (``quantize_weights={"bits": 8}``); what ``text`` says wins.  In a value, ``%2C``
    is a comma.

    Raises:
        UsageError: a pass or option that does not exist, a value that does not fit, or a pass
            that cannot run where it stands.

    >>> str(parse_pipeline("canonicalize,quantize-weights{bits=8}"))
    'canonicalize,quantize-weights{bits=8}'
    """
    return Pipeline(tuple(read(text, PASSES, options)), facts)
