"""What a model reads at once: a file that was named, or a line of JSON that names files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

from awqc.data.blobs import Blob, MediaFile
from awqc.data.json_lines import json_lines, read_text
from awqc.data.media_files import kind_of
from awqc.data.sample_tables import Table
from awqc.errors import CalibrationError, UsageError, spelled
from awqc.program import AUDIO, IMAGE, MEDIA, TEXT, Kinds

IMAGES = "images"
WANTED = ("label", "target")
"""Fields that say what a model should give."""


@dataclass(frozen=True)
class Record:
    """A sample before its files are read.

    Attributes:
        source: the file, or the line of a file.
        text: a text.
        files: an image, audio, or both, by kind.
        more: further images.
        wanted: what a model should say of it, as far as the data says.
    """

    source: str
    text: str | None
    files: dict[str, MediaFile]
    more: tuple[MediaFile, ...] = ()
    wanted: str | int | None = None


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

    Files are named from the folder of ``path``. Of ``reads`` only text may be missing. In place of
    ``image`` there may be ``images``, a list.

    Raises:
        UsageError: the file cannot be read.
        CalibrationError: it is empty, or a line is not as described.
    """
    return [
        _record(path.parent, where, content, reads)
        for _, where, content in json_lines(path, read_text(path))
    ]


class TableRecords(Sequence[Record]):
    """A record for each row of a table, read when it is asked for."""

    def __init__(self, table: Table, reads: Kinds) -> None:
        self._table, self._reads = table, reads

    def __len__(self) -> int:
        return len(self._table)

    @overload
    def __getitem__(self, index: int) -> Record: ...

    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...

    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        """Raises:
        CalibrationError: the row has not what the model reads.
        """
        numbers = range(len(self))[index]
        rows = self._table.read([numbers] if isinstance(numbers, int) else numbers)
        path = self._table.path
        folder = path if path.is_dir() else path.parent
        made = [
            _record(folder, f"{path}, row {number}", row, self._reads)
            for number, row in zip(
                [numbers] if isinstance(numbers, int) else numbers, rows, strict=True
            )
        ]
        return made[0] if isinstance(index, int) else made


def _record(folder: Path, where: str, content: Any, reads: Kinds) -> Record:
    given = dict(content) if isinstance(content, dict) else {}
    images = given.get(IMAGES)
    if IMAGE in reads and given.get(IMAGE) is None and isinstance(images, list):
        given[IMAGE], images = (images[0] if images else None), images[1:]
    else:
        images = []
    values = {kind: given.get(kind) for kind in (IMAGE, AUDIO, TEXT) if kind in reads}
    text = values.pop(TEXT, None)
    if text is not None and not (isinstance(text, str) and text):
        raise CalibrationError(f'{where}: needs "{TEXT}" (a text), since the model reads it')
    files = {kind: _file(folder, where, kind, value) for kind, value in values.items()}
    more = tuple(
        _file(folder, f"{where}, image {number}", IMAGE, value)
        for number, value in enumerate(images, 2)
    )
    return Record(where, text, files, more, _wanted(given, reads))


def _wanted(given: Mapping[str, Any], reads: Kinds) -> str | int | None:
    """A class, or a text to be written: beside audio ``text`` is what is said there."""
    names = (*WANTED, *([TEXT] if AUDIO in reads and TEXT not in reads else []))
    values = (given.get(name) for name in names)
    return next((value for value in values if type(value) in (str, int)), None)


def _file(folder: Path, where: str, kind: str, value: Any) -> MediaFile:
    """The file that a line or row names, or has in it, as tables of datasets have."""
    stored = value.get("bytes") if isinstance(value, dict) else value
    if isinstance(stored, bytes) and stored:
        return Blob(f"{where}: {kind}", stored)
    name = value.get("path") if isinstance(value, dict) else value
    if not isinstance(name, str) or not name:
        raise CalibrationError(
            f'{where}: needs "{kind}" (the name of a file), since the model reads it; a table may '
            "have its bytes"
        )
    return folder / name
