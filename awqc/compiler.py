"""compile(): capture -> pipeline -> export -> verify -> report. Read this and you know awqc."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.fx import GraphModule

from awqc.artifacts.publish import staging
from awqc.artifacts.recipe import write_recipe
from awqc.artifacts.scratch import ScratchFolder
from awqc.artifacts.target import prepare_file, prepare_folder
from awqc.artifacts.work_folder import WorkFolder, work_folder_beside
from awqc.calling import restore_calls
from awqc.capture.module import ExampleInputs
from awqc.data.calibration import CalibrationData
from awqc.data.load import Calib, DataSource
from awqc.errors import (
    ExportError,
    Note,
    UnsupportedGraphError,
    UsageError,
    VerificationError,
    spelled,
    worded,
)
from awqc.executor.run import DEFAULT_BOUNDS
from awqc.executor.segments import weights_read
from awqc.export.formats import FORMATS, serving, write_companions
from awqc.export.ort_levels import parse_level, set_level
from awqc.export.serving import prepare_serving
from awqc.machine.devices import parse_device
from awqc.machine.given_paths import given_path
from awqc.machine.in_rows import in_slices
from awqc.machine.launched import rank_here, ranks_here
from awqc.machine.process import undisturbed
from awqc.machine.progress import stage as showing
from awqc.machine.ranks import Ranks, all_ranks
from awqc.options import Options, parse_options
from awqc.options.chosen_passes import build_pipeline
from awqc.options.declare import takes
from awqc.options.values import parse_size
from awqc.passes.calibrate import Calibrate
from awqc.passes.convert_dtype import DTYPES, HALVES
from awqc.passes.journal import Journal, SharedJournal, WorkJournal
from awqc.passes.pipeline import Observe, Pipeline
from awqc.passes.planning import TOLD, Plan, plan_ahead
from awqc.passes.quantize_weights import QuantizeWeights
from awqc.passes.tune_scales import TuneScales
from awqc.program import Program
from awqc.report.content import build_report, stored_bytes, write_report
from awqc.runtimes.base import check_runtimes
from awqc.runtimes.onnxruntime import resolve_provider
from awqc.sources.opening import ModelLike, open_program
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
            shutil.copytree(self._files.path, folder, dirs_exist_ok=True)
        return target


@takes(Options)
@undisturbed()
def compile(
    model: ModelLike,
    example_inputs: ExampleInputs | None = None,
    calib: Calib | None = None,
    *,
    output_dir: str | Path | None = None,
    observe: Observe | None = None,
    notify: Callable[[Note], object] | None = None,
    **options: Any,
) -> Compiled:
    """Quantize the weights of ``model``, export it, and verify the result against it.

    Where ``torchrun`` started several processes, all of them call this alike: they share
    calibration and the work on weights. The first one exports, verifies and writes; the others
    return the same module with an empty report and no files.

    Args:
        model: a module (it is not changed), a captured program (it is consumed), or what the
            command line takes: the path of a torch.export archive, a pickled module, a Hugging
            Face folder or a GGUF file, or ``"package.module:factory"``.
        example_inputs: a tuple of positional or a dict of keyword inputs; None: as the model
            brings them, as the option ``inputs`` or arrays in ``calib`` say, or as the first
            layer asks for.
        calib: calibration data: a file of text (for language models) or of arrays, an iterable
            of batches in the form of ``example_inputs``, or a dict of whole arrays by input name.
            None: data is made up, and the report says so.
        output_dir: where to write the artifacts; None: nowhere, see `Compiled.save`.
        observe: called after each pass.
        notify: called with each `Note` on the model and the data, as soon as it is known.

    Raises:
        UsageError: an argument is wrong.
        CaptureError: the model cannot be loaded or captured; `awqc.compile_partial` may help.
        UnsupportedGraphError: the model's weights are not finite.
        CalibrationError: the data does not fit, or makes the model overflow.
        VerificationError: the result is not the model that was asked for; nothing is written.
        RankError: another process failed, or is gone.
    """
    chosen = parse_options(**options)
    for name, function in {"observe": observe, "notify": notify}.items():
        if function is not None and not callable(function):
            raise UsageError(f"{name} is a {type(function).__name__}; a function is needed")
    if observe is not None and ranks_here() > 1:
        raise UsageError(
            f"{spelled('observe')} looks at the whole graph after each pass, which several ranks "
            "do not have at one time; start one process"
        )
    pipeline, provider = prepare(chosen)
    used = used_files(model, calib, pipeline)
    target = None if output_dir is None else given_path(output_dir, "output_dir")
    if target is not None and rank_here() == 0:
        prepare_folder(target, used)
    tell = notify or (lambda note: None)
    timing: dict[str, float] = {}
    with all_ranks() as ranks, _keeping(chosen, target, used, tell, ranks) as journal:
        with _timed(timing, "capture"):
            source = DataSource.of(calib)
            program = open_as_asked(model, example_inputs, source, chosen)
        result = _compile(
            program, source, chosen, pipeline, provider, timing, observe, tell, journal, ranks
        )
        result._used = used
        if target is not None and ranks.writes:
            result.save(target)
    return result


@contextmanager
def _keeping(
    options: Options,
    target: Path | None,
    used: Sequence[Path],
    say: Callable[[Note], object],
    ranks: Ranks,
) -> Iterator[Journal]:
    """What keeps finished segments for as long as the block lasts, if there is a place for them.

    Raises:
        UsageError: the place is no work folder of awqc's, or in the way of something.
    """
    place = None if target is None else work_folder_beside(target)
    if options.work_dir is not None:
        place = Path(options.work_dir).expanduser()
    if place is None or not ranks.writes:
        own: AbstractContextManager[Journal] = nullcontext(Journal())
    else:
        folder = WorkFolder(place, (*used, *([] if target is None else [target])))
        own = WorkJournal(folder, options.fresh, say).kept()
    with own as journal:
        yield journal if ranks.count == 1 else SharedJournal(journal, ranks)


def open_as_asked(
    model: ModelLike, example_inputs: ExampleInputs | None, source: DataSource, options: Options
) -> Program:
    """``model``, captured as ``options`` say; arrays of ``source`` may tell its inputs.

    Raises:
        UsageError: it is no model, or its inputs are not known.
        CaptureError: it cannot be loaded or captured.
    """
    return open_program(
        model,
        example_inputs,
        inputs=options.inputs,
        arrays=source.arrays,
        dynamic=options.dynamic,
        trust_pickle=options.trust_pickle,
        task=options.task,
        trust_remote_code=options.trust_remote_code,
        seed=options.seed,
    )


def used_files(model: object, calib: object, pipeline: Pipeline) -> tuple[Path, ...]:
    """Files and folders that a compile reads, or writes besides its folder, as far as known.

    Raises:
        UsageError: statistics are to be written to what is no file.
    """
    for step in pipeline.passes:
        if isinstance(step, Calibrate) and step.stats:
            prepare_file(Path(step.stats), spelled("stats"))
    loaded = model.files if isinstance(model, Program) else ()
    named = [Path(each).expanduser() for each in (model, calib) if isinstance(each, str | Path)]
    return (*loaded, *(path for path in named if os.path.exists(path)), *pipeline.files())


def prepare(options: Options) -> tuple[Pipeline, str]:
    """The passes and the provider that were asked for, before any work is done.

    Raises:
        UsageError: this machine, or a combination of options, cannot give them.
    """
    parse_device(options.device)
    check_runtimes(options.verify_with, options.formats)
    return build_pipeline(options), resolve_provider(options.provider)


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
    pipeline = pipeline.in_dtype(program.source_dtype, DTYPES.get(options.dtype))
    warm_up(options.formats)
    original_bytes = stored_bytes(program)
    body, closing = _widened(program, options, pipeline, observe)
    prepare_serving(program, serving(options.formats))
    with _timed(timing, "data"):
        data = _load(program, source, options)
    told = options.memory is not None or weights_read(program.graph.nodes) >= TOLD
    plan = _plan(program, body, data, options) if told else None
    if plan is not None:
        notify(Note(plan.shortage() if not plan.fits else str(plan), warning=not plan.fits))
    bounds = DEFAULT_BOUNDS if plan is None else plan.bounds
    if not ranks.writes:
        body.run(program, data.batches, journal=journal, ranks=ranks, bounds=bounds)
        return Compiled(restore_calls(_final(program, closing, None)), {}, ScratchFolder())
    for note in _notes(program, data):
        notify(note)
    with _timed(timing, "reference"):
        reference = take_reference(program, data.held_out)
        trials = take_trials(program)
        step_trials(program, "the original")
    watched = reference.batches[0]
    body.run(
        program,
        data.batches,
        observe,
        float_layers,
        watched,
        journal=journal,
        ranks=ranks,
        bounds=bounds,
    )
    timing.update(pipeline.timing)
    layers = compare_layers(program, watched)
    files = ScratchFolder()
    folder = files.path
    with _timed(timing, "export"):
        final = _final(program, closing, observe)
        _write(program, final, folder, options.formats)
        level = parse_level(options.accuracy_level)
        set_level(folder, level)
    with _timed(timing, "verify"):
        verification = _verify(program, final, reference, trials, folder, options, provider)
        if level is None and settle_levels(folder, verification, reference.batches):
            verification = _verify(program, final, reference, trials, folder, options, provider)
        try:
            check_limits(verification, program.source_dtype, options.max_loss, program.name)
            judged, batches = _judged(program, final), reference.batches
            check_published(judged, final, batches, folder, verification)
        except VerificationError as error:
            raise VerificationError(f"{error.text}. Nothing was written") from error
    report = build_report(
        final, layers, verification, original_bytes, timing, str(pipeline), _describe(data)
    )
    write_recipe(final, str(pipeline), folder)
    write_report(report, folder)
    return Compiled(restore_calls(final), report, files)


def foresee(model: ModelLike, calib: Calib | None, options: Options) -> Plan:
    """What a compile of ``model`` will need; raises what `compile` raises of its arguments."""
    pipeline, _ = prepare(options)
    source = DataSource.of(calib)
    program = open_as_asked(model, None, source, options)
    pipeline = pipeline.in_dtype(program.source_dtype, DTYPES.get(options.dtype))
    body, _ = _widened(program, options, pipeline, None)
    return _plan(program, body, _load(program, source, options), options)


def _widened(
    program: Program, options: Options, pipeline: Pipeline, observe: Observe | None
) -> tuple[Pipeline, Pipeline]:
    """Let ``program`` compute in float32; what is to be done then, and what comes last."""
    opening, body, closing = pipeline.parts()
    _check_weights(program)
    opening.run(program, observe=observe)
    if opening.passes or closing.passes or options.dtype != "auto":
        program.source_dtype = closing.dtype
    if program.source_dtype in HALVES:
        program.scale_dtype = program.source_dtype
    return body, closing


def _load(program: Program, source: DataSource, options: Options) -> CalibrationData:
    return source.load(
        program, num_samples=options.num_samples, seq_len=options.seq_len, seed=options.seed
    )


def _plan(program: Program, body: Pipeline, data: CalibrationData, options: Options) -> Plan:
    """What the compile will need.

    Raises:
        UsageError: it is more than the limit that was given.
    """
    memory = None if options.memory is None else parse_size(options.memory)
    specs = [step.spec for step in body.passes if isinstance(step, QuantizeWeights)]
    tunes = any(isinstance(step, TuneScales) for step in body.passes)
    return plan_ahead(program, data.batches, (specs or [program.quantization])[0], tunes, memory)


def _check_weights(program: Program) -> None:
    """Refuse a model whose matrices are damaged before anything is computed."""
    for name, weight in program.graph_module.named_parameters():
        if weight.ndim < 2 or not weight.is_floating_point():
            continue
        if not all(part.isfinite().all() for part in in_slices(weight)):
            raise UnsupportedGraphError(
                f"{program.name}: the weight {name} holds NaN or infinite values; "
                "give a model whose weights are finite"
            )


def _notes(program: Program, data: CalibrationData) -> Iterator[Note]:
    """What the caller should know before the passes begin."""
    for text in program.notes:
        yield Note(text, warning=True)
    for text in data.notes:
        yield Note(text, warning=data.synthetic)


def _final(program: Program, closing: Pipeline, observe: Observe | None) -> Program:
    """The program in the dtype that it is to compute in; ``program`` itself stays float32."""
    if not closing.passes:
        return program
    final = program.variant()
    closing.run(final, observe=observe)
    return final


def _write(program: Program, final: Program, folder: Path, formats: Sequence[str]) -> None:
    """All formats; ONNX of a bfloat16 model is written in float32, which runs everywhere.

    The files that runners need go beside them.
    """
    metadata = program.quantization.metadata()
    for name in formats:
        wide = name in ("onnx", "ort") and final.source_dtype == torch.bfloat16
        try:
            FORMATS[name](program if wide else final, folder, metadata)
        except OSError as error:
            raise _unwritten(folder, name, error) from error
    try:
        write_companions(program, folder)
    except OSError as error:
        raise _unwritten(folder, "the tokenizer", error) from error
    final.notes = tuple(dict.fromkeys([*final.notes, *program.notes]))


def _unwritten(folder: Path, what: str, error: OSError) -> ExportError:
    return ExportError(
        f"{folder}: {what} could not be written: {error.strerror or error}; nothing was published"
    )


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
    judged = _judged(program, final)
    wanted = reference.in_dtypes(judged)
    return verify(judged, wanted, folder, options.verify_with, provider, trials)


def _judged(program: Program, final: Program) -> Program:
    """What ONNX forms were written from."""
    return program if program.source_dtype == torch.bfloat16 else final


def _describe(data: CalibrationData) -> dict[str, Any]:
    return {
        "source": data.source,
        "synthetic": data.synthetic,
        "batches": len(data.batches),
        "held_out_batches": len(data.held_out),
        "notes": [worded(note) for note in data.notes],
    }


@contextmanager
def _timed(timing: dict[str, float], stage: str) -> Iterator[None]:
    started = time.perf_counter()
    with showing(f"{stage} …"):
        yield
    timing[stage] = time.perf_counter() - started
