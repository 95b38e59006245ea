"""The formats that a compile can write, by name, and the files that runners need beside them.

What writes ONNX is imported when it is used: with the tools that it needs it takes 50 MB, which
the passes before it had rather have.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from awqc.artifacts.scratch import scratch_folder
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


def write_companions(program: Program, folder: Path) -> None:
    """Beside each ONNX form, the files by which runners take a language model's folder as it is."""
    if program.origin is None:
        return
    from awqc.huggingface.folder import HFFolder
    from awqc.huggingface.runner_files import write_runner_files

    for place in (folder, folder / TUNED):
        if place.is_dir():
            write_runner_files(program, HFFolder.of(program), place)
