"""Files of text, and of one JSON value a line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from awqc.errors import CalibrationError, UsageError


def read_text(path: Path) -> str:
    """Content of a text file.

    Raises:
        UsageError: it cannot be read.
        CalibrationError: it is empty, or no text.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror or error}") from error
    try:
        content = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CalibrationError(
            f"{path}: is no UTF-8 text (byte {error.start}); give plain text or JSON lines"
        ) from error
    if "\0" in content:
        raise CalibrationError(f"{path}: holds zero bytes: a binary file; give plain text")
    if not content.strip():
        raise CalibrationError(f"{path}: is empty; give text like that which the model will see")
    return content


def json_lines(path: Path, content: str) -> Iterator[tuple[int, str, Any]]:
    """Of each line of ``content`` that is not blank its number, where it is in words, its value.

    Lines end with a line feed alone: a text in JSON may hold what Unicode calls the end of a line.

    Raises:
        CalibrationError: a line is no JSON.
    """
    for number, line in enumerate(content.split("\n"), start=1):
        if line.strip():
            where = f"{path}, line {number}"
            try:
                yield number, where, json.loads(line)
            except (ValueError, RecursionError) as error:
                raise CalibrationError(f"{where}: is not JSON: {error}") from error
