"""The quantized program in the output folder of a compile."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from awqc.artifacts.json_files import read_json
from awqc.capture.archive import load_archive
from awqc.capture.exported import program_from_exported
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
        content = read_json(report)
        _rename(program, content["inputs"], content["outputs"])
    states = state_pairs((spec.name for spec in program.inputs), program.outputs)
    program.interface = replace(program.interface, states=states)
    if states and LOGITS in program.outputs:
        program.task = Task(MASK if MASK in program.example else None, (LOGITS,))
    return program


def _rename(program: Program, texts: list[str], outputs: list[str]) -> None:
    """Give inputs and outputs their names and axes; ``texts``: such as ``x=float32[batch,8]``."""
    old = program.inputs
    inputs = tuple(_named(s, text) for s, text in zip(old, texts, strict=True))
    example = {
        spec.name: program.example[former.name] for spec, former in zip(inputs, old, strict=True)
    }
    program.interface = replace(
        program.interface, inputs=inputs, example=example, outputs=tuple(outputs)
    )


def _named(spec: InputSpec, text: str) -> InputSpec:
    name, _, rest = text.partition("=")
    axes = rest[rest.index("[") + 1 : -1].split(",")
    pairs = zip(spec.shape, axes, strict=True) if spec.shape else ()
    shape = tuple(size if isinstance(size, int) else axis for size, axis in pairs)
    return replace(spec, name=name, shape=shape)
