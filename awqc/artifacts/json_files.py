"""JSON files of others, read with a message that names the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from awqc.errors import UsageError


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        UsageError: there is no such file, or it holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(
            f"{path.parent}: {path.name} is missing; a complete folder as "
            "`save_pretrained` writes it is needed"
        ) from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: not readable as JSON: {error}") from error
    if not isinstance(content, dict):
        raise UsageError(f"{path}: holds a JSON {type(content).__name__}; an object is needed")
    return content
