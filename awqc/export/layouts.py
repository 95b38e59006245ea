"""Layouts of a published folder: its own, or the one in which transformers.js looks for files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from awqc.errors import UsageError, spelled

PLAIN = "plain"
LAYOUTS = (PLAIN, "transformers.js")


@dataclass(frozen=True)
class FolderLayout:
    """How a folder is arranged before it is published.

    Attributes:
        name: ``plain`` or ``transformers.js``.
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

    def apply(self, folder: Path) -> None:
        """Arrange ``folder``, which is as a compile writes it."""
        if self.name != PLAIN:
            from awqc.export.transformers_js import arrange

            arrange(folder)
