"""The quantized program in the output folder of a compile."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from awqc.artifacts.json_files import Object
from awqc.capture.archive import load_archive
from awqc.capture.exported import program_from_exported
from awqc.errors import UsageError
from awqc.kv_cache import state_pairs
from awqc.machine.process import quiet_libraries
from awqc.program import InputSpec, Program, Task

LOGITS, MASK = "logits", "attention_mask"


def load_compiled(file: Path) -> Program:
    """What the archive ``file`` holds, under the names that its folder's report gives.

    An archive knows arguments, and a report the inputs and outputs of the other forms; a
    key/value cache is known by the ecosystem's names.

    Raises:
        CaptureError: the archive is damaged, or of another version of torch.
    """
    with quiet_libraries():
        program = program_from_exported(load_archive(file, trust=False), name=file.stem, copy=False)
    report = file.parent / "report.json"
    if report.is_file():
        content = Object.of(report)
        _rename(program, content.items("inputs", str), content.items("outputs", str), report)
    states = state_pairs((spec.name for spec in program.inputs), program.outputs)
    program.interface = replace(program.interface, states=states)
    if states and LOGITS in program.outputs:
        program.task = Task(MASK if MASK in program.example else None, (LOGITS,))
    return program


def _rename(program: Program, texts: list[str], outputs: list[str], report: Path) -> None:
    """Give inputs and outputs their names and axes; ``texts``: such as ``x=float32[batch,8]``.

    Raises:
        UsageError: they are of another model, or do not read like that.
    """
    old = program.inputs
    fit = len(texts) == len(old) and len(outputs) == len(program.outputs)
    named = zip(old, texts, strict=fit)
    if not fit or any(_axes(text, len(spec.shape)) is None for spec, text in named):
        raise UsageError(
            f"{report}: inputs or outputs are not those of the archive beside it; give the folder "
            "as awqc compile wrote it"
        )
    inputs = tuple(_named(s, text) for s, text in zip(old, texts, strict=True))
    example = {
        spec.name: program.example[former.name] for spec, former in zip(inputs, old, strict=True)
    }
    program.interface = replace(
        program.interface, inputs=inputs, example=example, outputs=tuple(outputs)
    )


def _axes(text: str, count: int) -> list[str] | None:
    """The axes in ``text``; None if it does not read like an input with ``count`` of them."""
    match = re.fullmatch(r"[^=]+=\w+\[(.*)\]", text)
    axes = match[1].split(",") if match and match[1] else []
    return axes if match and len(axes) == count else None


def _named(spec: InputSpec, text: str) -> InputSpec:
    pairs = zip(spec.shape, _axes(text, len(spec.shape)) or (), strict=True)
    shape = tuple(size if isinstance(size, int) else axis for size, axis in pairs)
    return replace(spec, name=text.partition("=")[0], shape=shape)
