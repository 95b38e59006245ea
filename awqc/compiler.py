"""A model of one graph: capture -> pipeline -> export -> verify -> report.

Read this and you know awqc.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.fx import GraphModule

from awqc.artifacts.copying import copy_tree
from awqc.artifacts.publish import staging
from awqc.artifacts.recipe import write_recipe
from awqc.artifacts.scratch import ScratchFolder
from awqc.artifacts.target import prepare_folder
from awqc.calling import restore_calls
from awqc.capture.module import ExampleInputs
from awqc.data.load import Calib, DataSource
from awqc.errors import Note, UsageError, VerificationError, spelled
from awqc.executor.resident import resident
from awqc.executor.run import DEFAULT_BOUNDS
from awqc.executor.segments import cut, usual_size, weights_read
from awqc.export.formats import serving
from awqc.export.layouts import FolderLayout
from awqc.export.misfits import misfits
from awqc.export.ort_levels import parse_level, set_level
from awqc.export.serving import prepare_serving
from awqc.export.towers import towers_of, write_towers
from awqc.machine.devices import parse_device
from awqc.machine.given_paths import given_path
from awqc.machine.memory import check_mapped_files, give_back, release_behind
from awqc.machine.process import undisturbed
from awqc.machine.progress import stage as showing
from awqc.machine.ranks import ALONE, Ranks
from awqc.options import Options, parse_options
from awqc.options.chosen_passes import may_untie
from awqc.options.declare import takes
from awqc.passes.convert_dtype import DTYPES, is_mixed
from awqc.passes.journal import Journal
from awqc.passes.pipeline import Observe, Pipeline
from awqc.passes.planning import TOLD
from awqc.program import Program
from awqc.report.content import build_report, stored_bytes, write_report
from awqc.sources.opening import ModelLike
from awqc.stages.asked import (
    describe_data,
    load_data,
    notes_before,
    open_as_asked,
    prepare,
    prepare_files,
    used_files,
    widen,
)
from awqc.stages.foreseen import memory_limit, plan_of
from awqc.stages.head import choose_head
from awqc.stages.kept import keeping
from awqc.stages.written import in_final_dtype, target_of, write_formats
from awqc.targets.known import AUTO, find_target
from awqc.verify.layers import compare_layers, float_layers
from awqc.verify.levels import settle_levels
from awqc.verify.limits import check_limits
from awqc.verify.published import check_published, warm_up
from awqc.verify.reference import Reference, take_reference
from awqc.verify.steps import step_trials
from awqc.verify.trials import Trial, take_trials
from awqc.verify.verification import Verification, verify


@dataclass
class Compiled:
    """A compiled model.

    Attributes:
        graph_module: the quantized model, called as the original was.
        report: the content of report.json.
    """

    graph_module: GraphModule
    report: dict[str, Any]
    _files: ScratchFolder = field(repr=False)
    _used: tuple[Path, ...] = field(default=(), repr=False)
    _layout: FolderLayout = field(default=FolderLayout(), repr=False)

    @property
    def folder(self) -> Path:
        """Where the artifacts lie until they are saved; it goes when this object goes."""
        return self._files.path

    def save(self, output_dir: str | Path) -> Path:
        """Write all artifacts into ``output_dir``, at once or not at all; returns its path.

        Raises:
            UsageError: the folder holds something that awqc did not write, or that was changed
                since, or a file that the compile read.
            ExportError: it cannot be written.
        """
        target = given_path(output_dir, "output_dir")
        with staging(target, self._used) as folder:
            copy_tree(self._files.path, folder)
            self._layout.apply(folder)
        return target


@takes(Options)
@undisturbed()
def compile_graph(
    model: ModelLike,
    example_inputs: ExampleInputs | None = None,
    calib: Calib | None = None,
    *,
    output_dir: str | Path | None = None,
    observe: Observe | None = None,
    notify: Callable[[Note], object] | None = None,
    ranks: Ranks = ALONE,
    hold: ExitStack | None = None,
    **options: Any,
) -> Compiled:
    """As `awqc.compile`, which takes the same and raises the same, for a model of one graph.

    Finished segments are kept until ``hold`` ends well, of which this model is a part; None: until
    this compile has.
    """
    chosen = parse_options(**options)
    for name, function in {"observe": observe, "notify": notify}.items():
        if function is not None and not callable(function):
            raise UsageError(f"{name} is a {type(function).__name__}; a function is needed")
    if observe is not None and ranks.count > 1:
        raise UsageError(
            "observe looks at the whole graph after each pass, which several ranks do not have at "
            "one time; start one process"
        )
    if chosen.head_bits == AUTO and ranks.count > 1:
        raise UsageError(
            f"{spelled('head_bits', AUTO)} measures on one machine; give a width, or start one "
            "process"
        )
    layout = FolderLayout(chosen.layout)
    layout.check(model, chosen.formats)
    pipeline, provider = prepare(chosen)
    used = used_files(model, calib, pipeline, chosen)
    target = None if output_dir is None else given_path(output_dir, "output_dir")
    if target is not None and ranks.writes:
        prepare_folder(target, used)
    tell = notify or (lambda note: None)
    timing: dict[str, float] = {}
    with ExitStack() as own:
        journal = (hold or own).enter_context(keeping(chosen, target, used, tell, ranks))
        with _timed(timing, "capture"):
            source = DataSource.of(calib)
            program = open_as_asked(model, example_inputs, source, chosen)
        layout.check_parts({program.name: program})
        result = _compile(
            program, source, chosen, pipeline, provider, timing, observe, tell, journal, ranks
        )
        result._used, result._layout = used, layout
        if target is not None and ranks.writes:
            result.save(target)
    return result


def _compile(
    program: Program,
    source: DataSource,
    options: Options,
    pipeline: Pipeline,
    provider: str,
    timing: dict[str, float],
    observe: Observe | None,
    notify: Callable[[Note], object],
    journal: Journal,
    ranks: Ranks,
) -> Compiled:
    pipeline = pipeline.in_dtype(program.source_dtype, DTYPES.get(options.dtype), is_mixed(program))
    warm_up(options.formats)
    original_bytes = stored_bytes(program)
    body, closing = widen(program, options, pipeline, observe)
    prepare_serving(program, serving(options.formats))
    prepare_files(program, options)
    with _timed(timing, "data"):
        data = load_data(program, source, options)
    told = options.memory is not None or weights_read(program.graph.nodes) >= TOLD
    plan = plan_of(program, body, data, options) if told else None
    if plan is not None:
        if options.memory is not None and not plan.fits:
            raise UsageError(plan.shortage())
        notify(Note(str(plan) if plan.fits else plan.shortage(), warning=not plan.fits))
    bounds = DEFAULT_BOUNDS if plan is None else plan.bounds
    size = journal.size(usual_size() if plan is None else plan.smallest, memory_limit(options))
    into = partial(cut, smallest=size)
    device = parse_device(options.device)
    if not ranks.writes:
        body.run(
            program,
            data.batches,
            cut=into,
            journal=journal,
            ranks=ranks,
            bounds=bounds,
            device=device,
        )
        return Compiled(restore_calls(in_final_dtype(program, closing, None)), {}, ScratchFolder())
    for note in notes_before(program, data):
        notify(note)
    with _timed(timing, "reference"), resident(program, device) as original:
        reference = take_reference(original, data.held_out)
        trials = take_trials(original)
        step_trials(original, "the original")
        if options.head_bits == AUTO and options.recipe is None:
            runs_on, untie = find_target(options.target), may_untie(options)
            chosen = choose_head(original, body, reference, runs_on, untie)
            notify(Note(f"the head has {chosen.width} bits: {chosen.reason}"))
            pipeline, body = (chosen.taken_by(each) for each in (pipeline, body))
    watched = reference.batches[0]
    body.run(
        program,
        data.batches,
        observe,
        float_layers,
        watched,
        into,
        journal=journal,
        ranks=ranks,
        bounds=bounds,
        device=device,
    )
    check_mapped_files()
    timing.update(pipeline.timing)
    with resident(program, device) as quantized:
        layers = compare_layers(quantized, watched)
    release_behind(original_bytes)
    files = ScratchFolder()
    folder = files.path
    with _timed(timing, "export"):
        final = in_final_dtype(program, closing, observe)
        runs_on = target_of(options, reference.batches)
        write_formats(program, final, folder, options.formats, runs_on)
        for text in misfits(folder, runs_on):
            notify(Note(text, warning=True))
        level = parse_level(options.accuracy_level)
        set_level(folder, level)
    with _timed(timing, "verify"):
        verification = _verify(program, final, reference, trials, folder, options, provider)
        if level is None and settle_levels(folder, verification, reference.batches):
            verification = _verify(program, final, reference, trials, folder, options, provider)
        try:
            check_limits(verification, program.source_dtype, options.max_loss, program.name)
            judged, batches = _judged(program, final), reference.batches
            write_towers(towers_of(judged), folder)
            check_published(judged, final, batches, folder, verification, trials)
        except VerificationError as error:
            raise VerificationError(f"{error.text}. Nothing was written") from error
    check_mapped_files()
    report = build_report(
        final, layers, verification, original_bytes, timing, str(pipeline), describe_data(data)
    )
    write_recipe(final, str(pipeline), folder)
    write_report(report, folder)
    return Compiled(restore_calls(final), report, files)


def _verify(
    program: Program,
    final: Program,
    reference: Reference,
    trials: Sequence[Trial],
    folder: Path,
    options: Options,
    provider: str,
) -> Verification:
    """Measure the exported model against the program that it was written from."""
    with resident(_judged(program, final), parse_device(options.device)) as judged:
        wanted = reference.in_dtypes(judged)
        return verify(judged, wanted, folder, options.verify_with, provider, trials)


def _judged(program: Program, final: Program) -> Program:
    """What ONNX forms were written from."""
    return program if program.source_dtype == torch.bfloat16 else final


@contextmanager
def _timed(timing: dict[str, float], stage: str) -> Iterator[None]:
    started = time.perf_counter()
    with showing(f"{stage} …"):
        yield
    give_back()
    timing[stage] = time.perf_counter() - started
