"""The quantized program in the dtype that was asked for, and in all formats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from awqc.errors import ExportError
from awqc.export.formats import FORMATS, write_companions
from awqc.kv_cache import MASK, PAST, POSITIONS
from awqc.options import Options
from awqc.passes.pipeline import Observe, Pipeline
from awqc.program import Batch, Program
from awqc.runtimes.counted_places import why_not_places
from awqc.targets.base import Target
from awqc.targets.known import AUTO, find_target


def in_final_dtype(program: Program, closing: Pipeline, observe: Observe | None) -> Program:
    """The program in the dtype that it is to compute in; ``program`` itself stays float32."""
    if not closing.passes:
        return program
    final = program.variant()
    closing.run(final, observe=observe)
    return final


def target_of(options: Options, batches: Sequence[Batch]) -> Target:
    """What runs the model, as it was asked for.

    It is given positions where that was asked for, and where ``batches`` have others than places in
    a cache.
    """
    told: list[dict[str, Any]] = [
        {name: value.numpy() for name, value in batch.items() if name in (POSITIONS, MASK)}
        | {name: value for name, value in batch.items() if name.startswith(PAST)}
        for batch in batches
    ]
    given = options.positions != AUTO or any(map(why_not_places, told))
    target = find_target(options.target)
    return replace(target, turns_positions=target.turns_positions and not given)


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
