"""Parts of a model, exported as they are."""

from __future__ import annotations

from pathlib import Path

from awqc.bundle.parts import Bundle
from awqc.export.onnx import export_onnx


def export_parts(bundle: Bundle, path: Path) -> dict[str, Path]:
    """Write each part to a folder of its own in ``path``; the folders by part."""
    places = {}
    for part, program in bundle.parts.items():
        places[part] = path / part
        places[part].mkdir()
        export_onnx(program, places[part] / "model.onnx")
    return places
