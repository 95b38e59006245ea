"""The parts in a folder that a compile of a model of several graphs wrote."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from awqc.artifacts.json_files import read_json
from awqc.artifacts.names import (
    BUNDLE_REPORT,
    EMBED_MODEL,
    ENCODER_MODEL,
    MERGED_MODEL,
    MODEL,
    REPORT,
    TUNED,
    VISION_MODEL,
)
from awqc.errors import UsageError
from awqc.huggingface.generating_parts import CROSS, DECODER, ENCODER
from awqc.huggingface.prompted_parts import EMBED, VISION
from awqc.program import Program
from awqc.runtimes.base import LoadedModel, find_runtime
from awqc.runtimes.part_of import PartOf
from awqc.verify.comparison import ExportedForm
from awqc.whole.folder_files import PARTS

PUBLISHED = {
    ENCODER: ENCODER_MODEL,
    CROSS: MERGED_MODEL,
    DECODER: MERGED_MODEL,
    VISION: VISION_MODEL,
    EMBED: EMBED_MODEL,
}
"""The file at the top of the folder that holds a part."""


@dataclass(frozen=True)
class WrittenPart:
    """A part as it was written.

    Attributes:
        name: of the part.
        folder: has its report, and its archive.
        model: the file with its QDQ form; onnxruntime's own form lies in the folder `TUNED` beside.
        later: whether ``model`` holds other parts too, and is this one behind a past (True) or at
            a first call (False); None: it holds this one alone.
    """

    name: str
    folder: Path
    model: Path
    later: bool | None

    @property
    def files(self) -> dict[str, Path]:
        """Its forms that are there, by format."""
        both = {"onnx": self.model, TUNED: self.model.parent / TUNED / self.model.name}
        return {form: file for form, file in both.items() if file.is_file()}

    def forms(self, program: Program, runtimes: Sequence[str]) -> list[ExportedForm]:
        """What of its forms ``runtimes`` run, with the inputs and outputs of ``program``."""
        return [
            ExportedForm(runtime, form, file, self._view(program))
            for runtime in runtimes
            for form, file in self.files.items()
            if form in find_runtime(runtime).FORMS
        ]

    def _view(self, program: Program) -> Callable[[LoadedModel], LoadedModel] | None:
        if self.later is None:
            return None
        names = tuple(spec.name for spec in program.inputs)
        return partial(PartOf, inputs=names, outputs=program.outputs, later=self.later)


def written_parts(folder: Path) -> dict[str, WrittenPart]:
    """The parts in ``folder``, in the order in which they run.

    Raises:
        UsageError: what its report tells of is not there.
    """
    report = next(folder / name for name in (REPORT, BUNDLE_REPORT) if (folder / name).is_file())
    told = read_json(report).get("parts")
    if not isinstance(told, Mapping) or not told:
        raise UsageError(f"{report}: tells of no parts; give the folder as awqc compile wrote it")
    found = {str(name): _part(folder, str(name)) for name in told}
    for part in found.values():
        if Path(part.name).name != part.name or not part.files:
            raise UsageError(
                f"{folder}: has no {part.model.relative_to(folder)}, which {report.name} tells of; "
                "give a folder that awqc compile wrote in the plain layout, with the format onnx "
                "or ort"
            )
    return found


def _part(folder: Path, name: str) -> WrittenPart:
    if name in PUBLISHED and (folder / PARTS).is_dir():
        merged = {CROSS: False, DECODER: True}.get(name) if _holds_several(folder) else None
        return WrittenPart(name, folder / PARTS / name, folder / PUBLISHED[name], merged)
    return WrittenPart(name, folder / name, folder / name / MODEL, None)


def _holds_several(folder: Path) -> bool:
    """Whether a decoder's file has a first call of another kind in it."""
    return any((place / ENCODER_MODEL).is_file() for place in (folder, folder / TUNED))
