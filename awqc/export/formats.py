"""The formats that a compile can write, by name, and the files that runners need beside them.

What writes ONNX is imported when it is used: with the tools that it needs it takes 50 MB, which
the passes before it had rather have.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from awqc.artifacts.scratch import scratch_folder
from awqc.errors import UsageError, spelled
from awqc.export.awq import Awq
from awqc.export.compressed_tensors import CompressedTensors
from awqc.export.serving import ServingFormat, write_serving
from awqc.export.whole_numbers import why_not_onnx, why_not_ort
from awqc.numerics.formats.base import WeightFormat
from awqc.numerics.formats.ggml_blocks import why_not_gguf
from awqc.program import Program
from awqc.runtimes.session_file import MODEL, TUNED, metadata_of
from awqc.targets.base import Target
from awqc.targets.known import ORT_CPU


@dataclass(frozen=True)
class Exporter:
    """One format that a compile can write.

    Attributes:
        write: a program into a folder, with metadata, for a target; returns the main file.
        why_not: why it cannot write a weight of some format, or None if it can.
        scales_at_run_time: whether it has a place for them.
    """

    write: Callable[[Program, Path, Mapping[str, str], Target], Path]
    why_not: Callable[[WeightFormat], str | None]
    scales_at_run_time: bool = True

    def __call__(
        self, program: Program, folder: Path, metadata: Mapping[str, str], target: Target = ORT_CPU
    ) -> Path:
        """Write."""
        return self.write(program, folder, metadata, target)


def _onnx(program: Program, folder: Path, metadata: Mapping[str, str], target: Target) -> Path:
    from awqc.export.onnx import export_onnx

    return export_onnx(program, folder / "model.onnx", metadata=metadata).path


def _ort(program: Program, folder: Path, metadata: Mapping[str, str], target: Target) -> Path:
    """From the QDQ form: the one in ``folder``, or one that is made for it."""
    from awqc.export.ort import export_ort

    path = folder / TUNED / MODEL
    path.parent.mkdir()
    with scratch_folder() as scratch:
        source = folder / MODEL
        if not source.is_file():
            source = _onnx(program, scratch, metadata, target)
        return export_ort(source, path, runs_on=target).path


def _pt2(program: Program, folder: Path, metadata: Mapping[str, str], target: Target) -> Path:
    from awqc.export.pt2 import export_pt2

    path = folder / "model.pt2"
    export_pt2(program, path)
    return path


def _gguf(program: Program, folder: Path, metadata: Mapping[str, str], target: Target) -> Path:
    from awqc.export.gguf import write_gguf

    return write_gguf(program, folder)


SERVING: dict[str, ServingFormat] = {form.name: form for form in (Awq(), CompressedTensors())}
"""Formats for decoders from a Hugging Face folder; they have no scales at run time."""


def _serving(
    form: ServingFormat,
    program: Program,
    folder: Path,
    metadata: Mapping[str, str],
    target: Target,
) -> Path:
    return write_serving(program, folder / form.name, form)


FORMATS: dict[str, Exporter] = {
    "onnx": Exporter(_onnx, why_not_onnx),
    "ort": Exporter(_ort, why_not_ort),
    "pt2": Exporter(_pt2, lambda form: None),
    **{
        name: Exporter(partial(_serving, form), form.why_not, scales_at_run_time=False)
        for name, form in SERVING.items()
    },
    "gguf": Exporter(_gguf, why_not_gguf, scales_at_run_time=False),
}


def serving(names: Sequence[str]) -> tuple[ServingFormat, ...]:
    """Those of ``names`` that are in `SERVING`."""
    return tuple(SERVING[name] for name in names if name in SERVING)


def runtime_scales(names: Sequence[str], asked: str) -> str:
    """What ``runtime_scales`` is, where the formats ``names`` are to be written.

    Raises:
        UsageError: ``always`` was asked for, and one has no place for them.
    """
    without = [name for name in names if not FORMATS[name].scales_at_run_time]
    if without and asked == "always":
        raise UsageError(
            f"{spelled('runtime_scales', asked)}: the format {without[0]} has no place for "
            "them; use auto or never"
        )
    return "never" if without else asked


def write_companions(program: Program, folder: Path) -> None:
    """Beside each ONNX form, the files by which runners take the folder as it is."""
    if program.task.origin is None:
        return
    from awqc.huggingface.folder import HFFolder
    from awqc.huggingface.runner_files import write_runner_files

    source = HFFolder.of(program)
    for place in (folder, folder / TUNED):
        if place.is_dir():
            told = metadata_of(place / MODEL) if (place / MODEL).is_file() else {}
            write_runner_files(program, source, place, told)


def check_held(names: Sequence[str], asked: WeightFormat) -> None:
    """Refuse what one of ``names`` cannot write, before anything is computed.

    Raises:
        UsageError: a format has no form for weights as they were ``asked`` for.
    """
    for name in names:
        if (reason := FORMATS[name].why_not(asked)) is not None:
            held = [other for other in FORMATS if FORMATS[other].why_not(asked) is None]
            raise UsageError(
                f"the format {name} cannot hold the weights asked for: {reason}. Ask for other "
                f"weights, or write {' or '.join(held)}"
            )
