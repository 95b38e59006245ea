"""compile(): capture -> pipeline -> export -> verify -> report. Read this and you know awqc."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule

from awqc.artifacts.publish import ScratchFolder, check_replaceable, staging
from awqc.artifacts.recipe import write_recipe
from awqc.calling import restore_calls
from awqc.capture.module import DynamicAxes, ExampleInputs, capture_module
from awqc.data.calibration import (
    CalibrationData,
    from_iterable,
    from_mapping,
    load_calibration,
    synthetic,
)
from awqc.errors import CaptureError, ExportError, UsageError, VerificationError
from awqc.export.formats import FORMATS, serving
from awqc.export.ort_levels import parse_level, set_level
from awqc.export.serving import prepare_serving
from awqc.machine.process import undisturbed
from awqc.machine.progress import stage as showing
from awqc.numerics.qparams import Bits
from awqc.options import Options, parse_options
from awqc.passes.convert_dtype import DTYPES, HALVES, ConvertDtype
from awqc.passes.pipeline import Observe
from awqc.program import Program
from awqc.report.content import build_report, stored_bytes, write_report
from awqc.runtimes.onnxruntime import resolve_provider
from awqc.verify.layers import LayerRecord
from awqc.verify.levels import settle_levels
from awqc.verify.limits import check
from awqc.verify.reference import Reference, take_reference
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

    @property
    def folder(self) -> Path:
        """Where the artifacts lie until they are saved; it goes when this object goes."""
        return self._files.path

    def save(self, output_dir: str | Path) -> Path:
        """Write all artifacts into ``output_dir``, at once or not at all; returns its path.

        Raises:
            UsageError: the folder holds something that awqc did not write.
            ExportError: it cannot be written.
        """
        target = Path(output_dir)
        with staging(target) as folder:
            shutil.copytree(self._files.path, folder, dirs_exist_ok=True)
        return target


@undisturbed()
def compile(
    model: nn.Module | Program,
    example_inputs: ExampleInputs | None = None,
    calib: Iterable[Any] | Mapping[str, Any] | CalibrationData | str | Path | None = None,
    *,
    bits: Bits = 4,
    group_size: int | str = "auto",
    output_dir: str | Path | None = None,
    dynamic: DynamicAxes | None = None,
    observe: Observe | None = None,
    beside: Callable[[Program, Path], object] | None = None,
    **options: Any,
) -> Compiled:
    """Quantize the weights of ``model``, export it, and verify the result against it.

    Args:
        model: a module (it is not changed), or a captured program (it is consumed).
        example_inputs: a tuple of positional or a dict of keyword inputs.
        calib: calibration data: an iterable of batches in the form of ``example_inputs``, a
            dict of whole arrays by input name, or a file (see README). None: random inputs are
            made up, and the report says so.
        bits: 2, 3, 4 or 8.
        group_size: weights that share a scale; -1: one scale an output channel; ``"auto"``:
            the largest of 128, 64, 32 that divides the input channels.
        output_dir: where to write the artifacts; None: nowhere, see `Compiled.save`.
        dynamic: axes besides the batch that may vary, by input name.
        observe: called after each pass.
        beside: called with the program and the folder of artifacts, to put more files there.
        **options: fields of `Options`, which says what each does: effort, symmetric, exclude,
            avg_bits, formats, max_loss, recipe, stats, num_samples, seed, dtype, and more.

    Raises:
        UsageError: an argument is wrong.
        CaptureError: the model cannot be captured.
        CalibrationError: the data does not fit, or makes the model overflow.
        VerificationError: the result is not the model that was asked for; nothing is written.
    """
    chosen = parse_options(bits=bits, group_size=group_size, **options)
    if output_dir is not None:
        check_replaceable(Path(output_dir))
    timing: dict[str, float] = {}
    if isinstance(model, Program):
        program = model
    elif example_inputs is None:
        raise UsageError("example_inputs is missing: a tuple, or a dict, of inputs of the model")
    else:
        with _timed(timing, "capture"):
            program = capture_module(model, example_inputs, dynamic=dynamic)
    result = _compile(program, calib, chosen, timing, observe)
    if beside is not None:
        beside(program, result.folder)
    if output_dir is not None:
        result.save(output_dir)
    return result


def _compile(
    program: Program,
    calib: Iterable[Any] | Mapping[str, Any] | CalibrationData | str | Path | None,
    options: Options,
    timing: dict[str, float],
    observe: Observe | None,
) -> Compiled:
    provider = resolve_provider(options.provider)
    pipeline = options.build_pipeline()
    _check_weights(program)
    original_bytes = stored_bytes(program)
    if program.source_dtype in HALVES:
        ConvertDtype("float32").apply(program)
        program.tidy()
    if options.dtype != "auto":
        program.source_dtype = DTYPES[options.dtype]
    if program.source_dtype in HALVES:
        program.scale_dtype = program.source_dtype
    prepare_serving(program, serving(options.formats), options.bits)
    with _timed(timing, "data"):
        data = _calibration(program, calib, options)
    with _timed(timing, "reference"):
        program.calibration = data.batches
        reference = take_reference(program, data.held_out)
    records: list[LayerRecord] = []
    pipeline.run(
        program, observe, lambda last: records.append(LayerRecord(last, reference.batches[0]))
    )
    timing.update(pipeline.timing)
    program.calibration = ()
    layers = records[0].layers(program) if records else []
    files = ScratchFolder()
    folder = files.path
    with _timed(timing, "export"):
        final = _final(program)
        _write(program, final, folder, options.formats)
        level = parse_level(options.accuracy_level)
        set_level(folder, level)
    with _timed(timing, "verify"):
        verification = _verify(program, final, reference, folder, options, provider)
        if level is None and settle_levels(folder, verification, reference.batches):
            verification = _verify(program, final, reference, folder, options, provider)
        try:
            check(verification, program.source_dtype, options.max_loss, program.name)
        except VerificationError as error:
            raise VerificationError(f"{error}. Nothing was written") from error
    report = build_report(
        final, layers, verification, original_bytes, timing, str(pipeline), _describe(data)
    )
    write_recipe(final, str(pipeline), folder)
    write_report(report, folder)
    return Compiled(restore_calls(final), report, files)


def _check_weights(program: Program) -> None:
    """Refuse a model whose matrices are damaged before anything is computed."""
    for name, weight in program.graph_module.named_parameters():
        if weight.ndim > 1 and weight.is_floating_point() and not weight.isfinite().all():
            raise CaptureError(
                f"{program.name}: the weight {name} holds NaN or infinite values; "
                "give a model whose weights are finite"
            )


def _calibration(
    program: Program,
    calib: Iterable[Any] | Mapping[str, Any] | CalibrationData | str | Path | None,
    options: Options,
) -> CalibrationData:
    if calib is None:
        return synthetic(program, options.num_samples or 64, options.seed)
    if isinstance(calib, CalibrationData):
        return calib
    if isinstance(calib, str | Path):
        return load_calibration(calib, program, options.num_samples)
    if isinstance(calib, Mapping):
        return from_mapping(calib, program, options.num_samples)
    return from_iterable(calib, program, options.num_samples)


def _final(program: Program) -> Program:
    """The program in the dtype that the model came in."""
    if program.source_dtype not in HALVES:
        return program
    final = program.clone()
    ConvertDtype(str(program.source_dtype).removeprefix("torch.")).apply(final)
    final.tidy()
    return final


def _write(program: Program, final: Program, folder: Path, formats: Sequence[str]) -> None:
    """All formats; ONNX of a bfloat16 model is written in float32, which runs everywhere."""
    metadata = {"awqc.bits": str(program.quantization.bits)}
    for name in formats:
        wide = name in ("onnx", "ort") and final.source_dtype == torch.bfloat16
        try:
            FORMATS[name](program if wide else final, folder, metadata)
        except OSError as error:
            raise ExportError(
                f"{folder}: {name} could not be written: {error.strerror or error}; "
                "nothing was published"
            ) from error


def _verify(
    program: Program,
    final: Program,
    reference: Reference,
    folder: Path,
    options: Options,
    provider: str,
) -> Verification:
    """Measure the exported model against the program that it was written from."""
    judged = program if program.source_dtype == torch.bfloat16 else final
    batches = tuple(_in_dtype(judged, batch) for batch in reference.batches)
    wanted = Reference(batches, reference.outputs)
    return verify(judged, wanted, folder, options.verify_with, provider)


def _in_dtype(program: Program, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {spec.name: batch[spec.name].to(spec.dtype) for spec in program.inputs}


def _describe(data: CalibrationData) -> dict[str, Any]:
    return {
        "source": data.source,
        "synthetic": data.synthetic,
        "batches": len(data.batches),
        "held_out_batches": len(data.held_out),
        "notes": list(data.notes),
    }


@contextmanager
def _timed(timing: dict[str, float], stage: str) -> Iterator[None]:
    started = time.perf_counter()
    with showing(f"{stage} …"):
        yield
    timing[stage] = time.perf_counter() - started
