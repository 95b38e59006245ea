"""Verify an output folder again, from its files alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from awqc.capture.compiled import ARCHIVE, load_compiled
from awqc.data.array_files import read_arrays
from awqc.data.calibration import CalibrationData, load_calibration, synthetic
from awqc.data.text import FEWEST_SAMPLES, text_calibration
from awqc.data.text_files import is_text_file
from awqc.errors import UsageError
from awqc.huggingface.folder import HFFolder
from awqc.program import Program
from awqc.runtimes.base import DEFAULT_RUNTIMES, find_runtime
from awqc.sources.source import load_program
from awqc.verify.comparison import forms_in
from awqc.verify.limits import check
from awqc.verify.reference import take_reference
from awqc.verify.verification import Verification, verify


def reverify(
    folder: Path,
    *,
    calib: Path | None = None,
    num_samples: int | None = None,
    against: str | None = None,
    trust_pickle: bool = False,
    provider: str = "auto",
    max_loss: float | None = None,
    seed: int = 0,
    verify_with: Sequence[str] = DEFAULT_RUNTIMES,
) -> Verification:
    """Compare the exported forms with ``model.pt2``, and with the original where it is given.

    Raises:
        UsageError: a file is missing, a runtime of ``verify_with`` does not work here, the
            inputs of the two models differ, or ``max_loss`` is given without ``against``.
        VerificationError: they disagree, or the loss is beyond ``max_loss``.
    """
    if max_loss is not None and against is None:
        raise UsageError("--max-loss is a limit for the loss against the original: give --against")
    needed = {ARCHIVE: [ARCHIVE] if (folder / ARCHIVE).is_file() else []}
    for runtime in verify_with:
        wanted = " or ".join(find_runtime(runtime).FORMS.values())
        needed[f"{wanted}, which {runtime} runs"] = list(forms_in(folder, runtime))
    for name, found in needed.items():
        if not found:
            raise UsageError(
                f"{folder}: has no {name}; give the output folder of a compile with "
                "--formats onnx,pt2"
            )
    quantized = load_compiled(folder / ARCHIVE)
    quantized.name = folder.name
    data = _data(quantized, folder, calib, num_samples, seed)
    batches = (*data.held_out, *data.batches) if calib is not None else data.held_out
    original = quantized if against is None else _original(against, quantized, calib, trust_pickle)
    reference = take_reference(original, batches)
    verification = verify(quantized, reference, folder, verify_with, provider)
    if against is None:
        verification = verification.of_exports()
    check(verification, _dtype(quantized), max_loss, folder.name)
    return verification


def _data(
    program: Program, folder: Path, calib: Path | None, num_samples: int | None, seed: int
) -> CalibrationData:
    if calib is None:
        return synthetic(program, num_samples or 64, seed)
    if is_text_file(calib):
        count = num_samples or FEWEST_SAMPLES
        return text_calibration(program, HFFolder(folder), calib, num_samples=count)
    return load_calibration(calib, program, num_samples)


def _original(
    against: str, quantized: Program, calib: Path | None, trust_pickle: bool
) -> Program:
    brings_inputs = against.endswith((".pt2", ".gguf")) or Path(against).is_dir()
    specs = [] if brings_inputs or calib else [str(spec) for spec in quantized.inputs]
    arrays = None if calib is None or is_text_file(calib) else read_arrays(calib)
    original = load_program(against, inputs=specs, calib=arrays, trust_pickle=trust_pickle)
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
