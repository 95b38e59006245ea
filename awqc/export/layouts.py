"""Layouts of a published folder: its own, or one in which another library looks for files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from awqc.artifacts.names import TUNED
from awqc.errors import UsageError, spelled

if TYPE_CHECKING:
    from awqc.program import Program

PLAIN, JAVASCRIPT, GENAI_LIBRARY = "plain", "transformers.js", "onnxruntime-genai"
LAYOUTS = (PLAIN, JAVASCRIPT, GENAI_LIBRARY)
FEATURES = 3
"""Axes of what a library takes for features of audio: of samples, of mels and of frames."""


@dataclass(frozen=True)
class FolderLayout:
    """How a folder is arranged before it is published.

    Attributes:
        name: one of `LAYOUTS`.
    """

    name: str = PLAIN

    def check(self, model: object, formats: Sequence[str]) -> None:
        """Refuse what cannot be arranged so, before any work.

        Raises:
            UsageError: ``model`` is no Hugging Face model, or ``formats`` have no ONNX.
        """
        if self.name == PLAIN:
            return
        path = Path(model).expanduser() if isinstance(model, str | Path) else Path()
        if not (path / "config.json").is_file() and path.suffix.lower() != ".gguf":
            raise UsageError(
                f"{spelled('layout', self.name)} is for Hugging Face models, since the library "
                f"finds its way by their config.json; {path.name or 'the model'} is none"
            )
        if not {"onnx", "ort"} & set(formats):
            raise UsageError(
                f"{spelled('layout', self.name)} is of ONNX files: write onnx or ort "
                f"({spelled('formats')})"
            )

    def check_parts(self, parts: Mapping[str, Program]) -> None:
        """Refuse parts that cannot be arranged so, before they are compiled.

        Raises:
            UsageError: the layout is for others.
        """
        if self.name != GENAI_LIBRARY:
            return
        if len(parts) == 1:
            raise UsageError(
                f"{spelled('layout', self.name)} is for models of an encoder and a decoder; the "
                f"folder of a decoder alone opens in {self.name} as it is: its {TUNED}/, with "
                f"{spelled('formats', 'onnx,ort')}. Leave it out"
            )
        from awqc.huggingface.generating_parts import ENCODER

        reads = next(iter(parts.values())).inputs
        if ENCODER not in parts or [len(spec.shape) for spec in reads] != [FEATURES]:
            raise UsageError(
                f"{spelled('layout', self.name)}: of models of several parts that library runs an "
                "encoder of features of audio, (batch, mels, frames), and a decoder; here "
                f"{next(iter(parts))} reads {', '.join(map(str, reads))}. Leave it out"
            )

    def apply(self, folder: Path) -> None:
        """Arrange ``folder``, which is as a compile writes it."""
        if self.name == JAVASCRIPT:
            from awqc.export.transformers_js import arrange

            arrange(folder)
        elif self.name == GENAI_LIBRARY:
            from awqc.export.genai_layout import arrange_for_genai

            arrange_for_genai(folder)
