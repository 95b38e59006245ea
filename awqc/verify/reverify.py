"""Verify an output folder again, from its files alone."""

from __future__ import annotations

from pathlib import Path

import torch

from awqc.artifacts.names import ARCHIVE
from awqc.capture.compiled import load_compiled
from awqc.data.array_files import read_arrays
from awqc.data.calibration import CalibrationData, load_calibration, synthetic
from awqc.data.text import FEWEST_SAMPLES, text_calibration
from awqc.data.text_files import is_text_file
from awqc.errors import UsageError
from awqc.huggingface.folder import HFFolder
from awqc.program import Program
from awqc.runtimes.session_file import MODEL, TUNED
from awqc.sources.source import load_program
from awqc.verify.verification import Verification, check, take_reference, verify


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
) -> Verification:
    """Compare the ONNX forms with ``model.pt2``, and with the original where it is given.

    Raises:
        UsageError: a file is missing, the inputs of the two models differ, or ``max_loss``
            is given without ``against``.
        VerificationError: they disagree, or the loss is beyond ``max_loss``.
    """
    if max_loss is not None and against is None:
        raise UsageError("--max-loss is a limit for the loss against the original: give --against")
    path, tuned = (
        file if file.is_file() else None for file in (folder / MODEL, folder / TUNED / MODEL)
    )
    for name, found in ((MODEL, path or tuned), (ARCHIVE, (folder / ARCHIVE).is_file())):
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
    verification = verify(quantized, reference, path, provider, tuned)  # type: ignore[arg-type]  # the option's choices are the providers
    check(verification, _dtype(quantized), max_loss if against else None, folder.name)
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
