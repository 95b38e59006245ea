"""The quantized program in the dtype that was asked for, and in all formats."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from awqc.errors import ExportError
from awqc.export.formats import FORMATS, write_companions
from awqc.passes.pipeline import Observe, Pipeline
from awqc.program import Program
from awqc.targets.base import Target


def in_final_dtype(program: Program, closing: Pipeline, observe: Observe | None) -> Program:
    """The program in the dtype that it is to compute in; ``program`` itself stays float32."""
    if not closing.passes:
        return program
    final = program.variant()
    closing.run(final, observe=observe)
    return final


def write_formats(
    program: Program, final: Program, folder: Path, formats: Sequence[str], target: Target
) -> None:
    """All formats, for ``target``; ONNX of a bfloat16 model is in float32, which runs everywhere.

    The files that runners need go beside them.
    """
    metadata = program.quantization.metadata()
    for name in formats:
        wide = name in ("onnx", "ort") and final.source_dtype == torch.bfloat16
        try:
            FORMATS[name](program if wide else final, folder, metadata, target)
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
