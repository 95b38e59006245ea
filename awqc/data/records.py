"""What a model reads at once: a file that was named, or a line of JSON that names files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from awqc.data.json_lines import json_lines, read_text
from awqc.data.media_files import kind_of
from awqc.errors import CalibrationError, UsageError, spelled
from awqc.program import AUDIO, IMAGE, MEDIA, TEXT, Kinds


@dataclass(frozen=True)
class Record:
    """A sample before its files are read.

    Attributes:
        source: the file, or the line of a file.
        text: a text.
        files: an image, audio, or both, by kind.
    """

    source: str
    text: str | None
    files: dict[str, Path]


def file_records(paths: Sequence[Path], reads: Kinds, where: str) -> list[Record]:
    """A record for each of ``paths`` that is of a kind in ``reads``.

    Raises:
        UsageError: there is none, or a model reads several kinds of files at once.
    """
    wanted = sorted(MEDIA & set(reads))
    if len(wanted) > 1:
        raise UsageError(
            f"{where}: the model reads {' and '.join(wanted)} together; give a .jsonl file whose "
            "lines name both"
        )
    found = [Record(str(path), None, {wanted[0]: path}) for path in paths
             if kind_of(path) == wanted[0]]  # fmt: skip
    if not found:
        raise UsageError(
            f"{where}: the model reads {wanted[0]}, of which there is none in {spelled('calib')} "
            f"({len(paths)} files, such as {paths[0]})"
        )
    return found


def json_records(path: Path, reads: Kinds) -> list[Record]:
    """A record for each line of ``path``: ``{"image": "a.png", "text": "a cat"}``.

    Files are named from the folder of ``path``. Of ``reads`` only text may be missing.

    Raises:
        UsageError: the file cannot be read.
        CalibrationError: it is empty, or a line is not as described.
    """
    return [
        _record(path, where, content, reads)
        for _, where, content in json_lines(path, read_text(path))
    ]


def _record(path: Path, where: str, content: Any, reads: Kinds) -> Record:
    given = content if isinstance(content, dict) else {}
    values = {kind: given.get(kind) for kind in (IMAGE, AUDIO, TEXT) if kind in reads}
    wrong = [
        kind
        for kind, value in values.items()
        if not (isinstance(value, str) and value) and not (kind == TEXT and value is None)
    ]
    if wrong:
        what = "a text" if wrong[0] == TEXT else "the name of a file"
        raise CalibrationError(f'{where}: needs "{wrong[0]}" ({what}), since the model reads it')
    files = {kind: path.parent / str(value) for kind, value in values.items() if kind != TEXT}
    return Record(where, values.get(TEXT), files)
