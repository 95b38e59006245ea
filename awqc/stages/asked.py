"""What was asked for: passes, files in use, the model and its data, in the dtype of the passes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from awqc.artifacts.target import prepare_file
from awqc.capture.module import ExampleInputs
from awqc.capture.regions import check_no_branches
from awqc.data.calibration import CalibrationData
from awqc.data.load import DataSource
from awqc.errors import Note, UnsupportedGraphError, UsageError, spelled, worded
from awqc.machine.devices import parse_device
from awqc.machine.in_rows import in_slices
from awqc.options import Options
from awqc.options.chosen_passes import build_pipeline
from awqc.passes.calibrate import Calibrate
from awqc.passes.convert_dtype import HALVES
from awqc.passes.pipeline import Observe, Pipeline
from awqc.program import Program
from awqc.runtimes.base import check_runtimes
from awqc.runtimes.onnxruntime import resolve_provider
from awqc.sources.opening import ModelLike, open_program
from awqc.sources.source import source_files


def prepare(options: Options) -> tuple[Pipeline, str]:
    """The passes and the provider that were asked for, before any work is done.

    Raises:
        UsageError: this machine, or a combination of options, cannot give them.
    """
    parse_device(options.device)
    check_runtimes(options.verify_with, options.formats)
    return build_pipeline(options), resolve_provider(options.provider)


def used_files(
    model: object, calib: object, pipeline: Pipeline, options: Options
) -> tuple[Path, ...]:
    """Files and folders that a compile reads, or writes besides its folder, as far as known.

    Raises:
        UsageError: statistics are to be written to what is no file.
    """
    for step in pipeline.passes:
        if isinstance(step, Calibrate) and step.stats:
            prepare_file(Path(step.stats), spelled("stats"))
    loaded = model.files if isinstance(model, Program) else ()
    sources = (
        source_files(model, options.weights, options.adapter)
        if isinstance(model, str | Path)
        else ()
    )
    given = (calib, options.gguf)
    named = [Path(each).expanduser() for each in given if isinstance(each, str | Path)]
    there = (path for path in named if os.path.exists(path))
    return (*loaded, *sources, *there, *pipeline.files())


def open_as_asked(
    model: ModelLike, example_inputs: ExampleInputs | None, source: DataSource, options: Options
) -> Program:
    """``model``, captured as ``options`` say; arrays of ``source`` may tell its inputs.

    Raises:
        UsageError: it is no model, or its inputs are not known.
        CaptureError: it cannot be loaded or captured.
        UnsupportedGraphError: it branches.
    """
    program = open_program(
        model,
        example_inputs,
        inputs=options.inputs,
        arrays=source.arrays,
        dynamic=options.dynamic,
        trust_pickle=options.trust_pickle,
        task=options.task,
        trust_remote_code=options.trust_remote_code,
        weights=options.weights,
        adapter=options.adapter,
        seed=options.seed,
    )
    check_no_branches(program)
    return program


def widen(
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


def prepare_files(program: Program, options: Options) -> None:
    """Read what a format takes from a file of the user's, before any work.

    Raises:
        UsageError: the file is missing, unreadable or another model's.
    """
    if "gguf" not in options.formats:
        if options.gguf is not None:
            raise UsageError(
                f"{spelled('gguf')} is for the format gguf; ask for it ({spelled('formats')})"
            )
        return
    from awqc.export.gguf import prepare_gguf

    chooses = bool(options.weight_format or options.avg_bits or options.budget)
    prepare_gguf(program, options.gguf, as_template=not chooses)


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


def load_data(program: Program, source: DataSource, options: Options) -> CalibrationData:
    """The calibration data, as ``options`` say; raises what `DataSource.load` raises."""
    return source.load(
        program, num_samples=options.num_samples, seq_len=options.seq_len, seed=options.seed
    )


def notes_before(program: Program, data: CalibrationData) -> Iterator[Note]:
    """What the caller should know before the passes begin."""
    for text in program.notes:
        yield Note(text, warning=True)
    for text in data.notes:
        yield Note(text, warning=data.synthetic)


def describe_data(data: CalibrationData) -> dict[str, Any]:
    """What the report tells of the data."""
    return {
        "source": data.source,
        "synthetic": data.synthetic,
        "batches": len(data.batches),
        "held_out_batches": len(data.held_out),
        "notes": [worded(note) for note in data.notes],
    }
