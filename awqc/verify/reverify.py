"""Verify an output folder again, from its files alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from awqc.artifacts.names import ARCHIVE, AUDIO_TOWER, IMAGE_TOWER, TEXT_TOWER
from awqc.capture.compiled import load_compiled
from awqc.data.calibration import CalibrationData
from awqc.data.load import Calib, DataSource
from awqc.data.text_batches import FEWEST_SAMPLES
from awqc.errors import UsageError, spelled
from awqc.huggingface.folder import HFFolder
from awqc.huggingface.tasks import read_by
from awqc.program import IMAGE, Batch, Program
from awqc.runtimes.base import DEFAULT_RUNTIMES, find_runtime
from awqc.sources.opening import open_program
from awqc.sources.source import brings_inputs
from awqc.verify.comparison import ExportedForm, forms_of
from awqc.verify.limits import check_limits
from awqc.verify.published import check_towers
from awqc.verify.reference import take_reference
from awqc.verify.trials import take_trials
from awqc.verify.verification import Verification, verify_forms

TOWERS = (TEXT_TOWER, IMAGE_TOWER, AUDIO_TOWER)


def reverify(
    folder: Path,
    *,
    calib: Calib | None = None,
    num_samples: int | None = None,
    against: str | None = None,
    trust_pickle: bool = False,
    weights: str | Path | None = None,
    adapter: str | Path | None = None,
    task: str | None = None,
    trust_remote_code: bool = False,
    provider: str = "auto",
    max_loss: float | None = None,
    seed: int = 0,
    verify_with: Sequence[str] = DEFAULT_RUNTIMES,
) -> Verification:
    """Compare the exported forms with ``model.pt2``, and with the original where it is given.

    The original is opened as in compile, with ``trust_pickle``, ``weights``, ``adapter``, ``task``
    and ``trust_remote_code``.

    Raises:
        UsageError: a file is missing, a runtime of ``verify_with`` does not work here, the
            inputs of the two models differ, or ``max_loss`` is given without ``against``.
        VerificationError: they disagree, or the loss is beyond ``max_loss``.
    """
    refuse_limit(max_loss, against)
    forms = forms_of(folder, verify_with)
    check_forms(folder, forms, verify_with)
    quantized = open_quantized(folder)
    source = DataSource.of(calib)
    original = quantized
    if against is not None:
        original = _original(
            against,
            quantized,
            source,
            trust_pickle=trust_pickle,
            weights=weights,
            adapter=adapter,
            task=task,
            trust_remote_code=trust_remote_code,
        )
    if original.task.transform is not None:
        quantized.task = replace(quantized.task, reads=(IMAGE,), transform=original.task.transform)
    data = _data(quantized, folder, source, num_samples, seed)
    batches = (*data.held_out, *data.batches) if calib is not None else data.held_out
    against_it = None if against is None else original
    verification = judge_forms(quantized, against_it, batches, forms, provider, max_loss)
    if any((folder / name).is_file() for name in TOWERS):
        reads, paired = read_by(HFFolder(folder))
        quantized.task = replace(quantized.task, reads=reads, paired=paired)
        check_towers(quantized, batches, folder, verification)
    return verification


def refuse_limit(max_loss: float | None, against: str | None) -> None:
    """Refuse a limit for the loss where there is nothing to lose against.

    Raises:
        UsageError: it is so.
    """
    if max_loss is not None and against is None:
        raise UsageError(
            f"{spelled('max_loss')} is a limit for the loss against the original: give "
            f"{spelled('against')}"
        )


def open_quantized(folder: Path) -> Program:
    """The quantized program in ``folder``, of the folder's name.

    Raises:
        UsageError: there is none.
        CaptureError: it is damaged, or of another version of torch.
    """
    check_forms(folder, (), ())
    quantized = load_compiled(folder / ARCHIVE)
    quantized.name = folder.name
    return quantized


def check_forms(folder: Path, forms: Sequence[ExportedForm], runtimes: Sequence[str]) -> None:
    """Refuse a folder without the archive, and a runtime that has none of its ``forms`` to run.

    Raises:
        UsageError: it is one, or there is one.
    """
    if not (folder / ARCHIVE).is_file():
        raise _lacking(folder, ARCHIVE)
    for runtime in runtimes:
        if not any(form.runtime == runtime for form in forms):
            wanted = " or ".join(find_runtime(runtime).FORMS.values())
            raise _lacking(folder, f"{wanted}, which {runtime} runs")


def _lacking(folder: Path, what: str) -> UsageError:
    return UsageError(
        f"{folder}: has no {what}; give the output folder of a compile with "
        f"{spelled('formats', 'onnx,pt2')}"
    )


def judge_forms(
    quantized: Program,
    original: Program | None,
    batches: Sequence[Batch],
    forms: Sequence[ExportedForm],
    provider: str,
    max_loss: float | None,
) -> Verification:
    """Compare ``forms`` with the ``quantized`` program on ``batches``, and that with ``original``.

    Raises:
        VerificationError: they disagree, or the loss is beyond ``max_loss``.
    """
    judged = original or quantized
    reference = take_reference(judged, batches)
    verification = verify_forms(quantized, reference, forms, provider, take_trials(judged))
    if original is None:
        verification = verification.of_exports()
    limit = math.inf if max_loss is None else max_loss
    check_limits(verification, _dtype(quantized), limit, quantized.name)
    return verification


def _data(
    program: Program, folder: Path, source: DataSource, num_samples: int | None, seed: int
) -> CalibrationData:
    """Few samples of files: each is run by every form; random inputs where there is no data."""
    if source.text is None and source.media is None:
        return source.load(program, num_samples=num_samples, seed=seed)
    count = num_samples or FEWEST_SAMPLES
    if program.task.transform is not None:
        return source.load(program, num_samples=count, seed=seed)
    origin = HFFolder(folder)
    reads, paired = read_by(origin)
    program.task = replace(program.task, reads=reads, paired=paired)
    return source.load(program, num_samples=count, seed=seed, folder=origin)


def _original(against: str, quantized: Program, source: DataSource, **how: Any) -> Program:
    told = brings_inputs(against) or source.arrays is not None
    specs = [] if told else [str(spec) for spec in quantized.inputs]
    original = open_program(against, inputs=specs, arrays=source.arrays, **how)
    wanted, found = ({spec.name for spec in p.inputs} for p in (quantized, original))
    if wanted != found:
        raise UsageError(
            f"{against}: has the inputs {', '.join(sorted(found))}; the compiled model has "
            f"{', '.join(sorted(wanted))}"
        )
    return original


def _dtype(program: Program) -> torch.dtype:
    half = (torch.float16, torch.bfloat16)
    return program.source_dtype if program.source_dtype in half else torch.float32
