"""The formats that a compile can write, by their names on the command line.

What writes ONNX is imported when it is used: with the tools that it needs it takes 50 MB, which
the passes before it had rather have.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from awqc.artifacts.scratch import scratch_folder
from awqc.errors import UsageError
from awqc.export.awq import Awq
from awqc.export.compressed_tensors import CompressedTensors
from awqc.export.serving import ServingFormat, write_serving
from awqc.program import Program
from awqc.runtimes.session_file import MODEL, TUNED

Writer = Callable[[Program, Path, Mapping[str, str]], Path]
"""Writes a program into a folder, with metadata; returns the main file."""


def _onnx(program: Program, folder: Path, metadata: Mapping[str, str]) -> Path:
    from awqc.export.onnx import export_onnx

    return export_onnx(program, folder / "model.onnx", metadata=metadata).path


def _ort(program: Program, folder: Path, metadata: Mapping[str, str]) -> Path:
    """From the QDQ form: the one in ``folder``, or one that is made for it."""
    from awqc.export.ort import export_ort

    target = folder / TUNED / MODEL
    target.parent.mkdir()
    with scratch_folder() as scratch:
        source = folder / MODEL
        if not source.is_file():
            source = _onnx(program, scratch, metadata)
        return export_ort(source, target).path


def _pt2(program: Program, folder: Path, metadata: Mapping[str, str]) -> Path:
    from awqc.export.pt2 import export_pt2

    path = folder / "model.pt2"
    export_pt2(program, path)
    return path


SERVING: dict[str, ServingFormat] = {form.name: form for form in (Awq(), CompressedTensors())}
"""Formats for decoders from a Hugging Face folder; they have no scales at run time."""


def _serving(
    form: ServingFormat, program: Program, folder: Path, metadata: Mapping[str, str]
) -> Path:
    return write_serving(program, folder / form.name, form)


FORMATS: dict[str, Writer] = {
    "onnx": _onnx,
    "ort": _ort,
    "pt2": _pt2,
    **{name: partial(_serving, form) for name, form in SERVING.items()},
}


def serving(names: Sequence[str]) -> tuple[ServingFormat, ...]:
    """Those of ``names`` that are in `SERVING`."""
    return tuple(SERVING[name] for name in names if name in SERVING)


def check_formats(names: Sequence[str]) -> tuple[str, ...]:
    """``names`` without repetition, in the order in which they are written.

    Raises:
        UsageError: a name is unknown, or there is none.
    """
    for name in names:
        if name not in FORMATS:
            raise UsageError(f"format {name!r} is unknown; choose from {', '.join(FORMATS)}")
    if not names:
        raise UsageError(f"no format is given; choose from {', '.join(FORMATS)}")
    return tuple(name for name in FORMATS if name in names)
