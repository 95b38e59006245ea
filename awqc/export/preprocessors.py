"""What makes a model's inputs, in the files of a folder: one of its own, or inside of a processor's
as transformers 5 writes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from awqc.artifacts.json_files import read_json

PROCESSOR, PREPROCESSOR = "processor_config.json", "preprocessor_config.json"
INSIDE = ("feature_extractor", "image_processor")


def read_preprocessor(folder: Path) -> dict[str, Any] | None:
    """What the files in ``folder`` say of it, in the words of `PREPROCESSOR`; None: nothing."""
    if (folder / PREPROCESSOR).is_file():
        return read_json(folder / PREPROCESSOR)
    if not (folder / PROCESSOR).is_file():
        return None
    content = read_json(folder / PROCESSOR)
    found = next((content[name] for name in INSIDE if name in content), None)
    if not isinstance(found, dict):
        return None
    return {**found, **{key: content[key] for key in ("processor_class",) if key in content}}
