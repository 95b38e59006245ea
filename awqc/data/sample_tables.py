"""Tables of samples: parquet and Arrow files, and the folders that the package datasets saves.

A row is what a line of ``.jsonl`` is: ``text`` or ``messages``, ``image`` or ``images``, ``audio``.
Rows are read when they are asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from awqc.errors import CalibrationError, UsageError

SUFFIXES = (".parquet", ".arrow")
SPLITS = "dataset_dict.json"
"""The file of datasets that lists the splits of a folder, each of which is a folder in it."""
COLUMNS = ("text", "messages", "image", "images", "audio", "label", "target")
AT_ONCE = 256
"""Rows that are read together."""


def is_table(path: Path) -> bool:
    """Whether ``path`` is a file of a table, or a folder with some or with splits of some."""
    if path.is_dir():
        return (path / SPLITS).is_file() or bool(_files(path))
    return path.suffix.lower() in SUFFIXES


@dataclass(frozen=True)
class Table:
    """A table whose rows are samples.

    Attributes:
        path: the file or folder.
        columns: those of `COLUMNS` that it has.
    """

    path: Path
    columns: tuple[str, ...]
    _rows: Any

    @classmethod
    def open(cls, path: Path) -> Table:
        """The table at ``path``; nothing but its columns is read yet.

        Raises:
            UsageError: it is not there, pyarrow is missing, or a folder has several splits.
            CalibrationError: it is damaged, empty, or has no column that is known.
        """
        try:
            import pyarrow
            import pyarrow.dataset
        except ImportError:
            raise UsageError(
                f"{path}: parquet and Arrow files are read with pyarrow, which is not installed: "
                "pip install 'awqc[data]', or give .jsonl"
            ) from None
        files = _files(_split(path)) if path.is_dir() else [path]
        if not all(file.is_file() for file in files) or not files:
            raise UsageError(f"{path}: there is no such table; give {' or '.join(SUFFIXES)} files")
        with_parquet = [file.suffix.lower() == ".parquet" for file in files]
        try:
            if all(with_parquet):
                rows = pyarrow.dataset.dataset(list(map(str, files)), format="parquet")
            else:
                rows = pyarrow.dataset.dataset(_arrow(files))
            names = rows.schema.names
            count = rows.count_rows()
        except (pyarrow.ArrowException, OSError, ValueError) as error:
            raise _damaged(path, error) from error
        columns = tuple(name for name in COLUMNS if name in names)
        if not set(columns) - {"label", "target"}:
            raise CalibrationError(
                f"{path}: has the columns {', '.join(names)}; needed are text or messages, "
                "image or images, audio, as the model reads: rename them"
            )
        if not count:
            raise CalibrationError(f"{path}: the table has no rows")
        return cls(path, columns, rows)

    def __len__(self) -> int:
        return int(self._rows.count_rows())

    def read(self, numbers: Sequence[int]) -> list[dict[str, Any]]:
        """The rows of these numbers.

        Raises:
            CalibrationError: the file is damaged.
        """
        import pyarrow

        try:
            found: list[dict[str, Any]] = self._rows.take(
                list(numbers), columns=list(self.columns)
            ).to_pylist()
        except (pyarrow.ArrowException, OSError) as error:
            raise _damaged(self.path, error) from error
        return found

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """All rows, in order, a few in memory at a time."""
        import pyarrow

        try:
            for batch in self._rows.to_batches(columns=list(self.columns), batch_size=AT_ONCE):
                yield from batch.to_pylist()
        except (pyarrow.ArrowException, OSError) as error:
            raise _damaged(self.path, error) from error


def _files(folder: Path) -> list[Path]:
    return sorted(each for each in folder.iterdir() if each.suffix.lower() in SUFFIXES)


def _split(folder: Path) -> Path:
    """``folder``, or the one split in it."""
    if not (folder / SPLITS).is_file():
        return folder
    splits = sorted(each for each in folder.iterdir() if each.is_dir() and _files(each))
    if len(splits) != 1:
        raise UsageError(
            f"{folder}: has the splits {', '.join(each.name for each in splits) or '(none)'}; give "
            "the folder of one"
        )
    return splits[0]


def _arrow(files: Sequence[Path]) -> Any:
    """The rows of Arrow files, which stay there: of a stream, as datasets writes, or of a file."""
    import pyarrow

    tables = []
    for file in files:
        mapped = pyarrow.memory_map(str(file))
        try:
            tables.append(pyarrow.ipc.open_stream(mapped).read_all())
        except pyarrow.ArrowInvalid:
            tables.append(pyarrow.ipc.open_file(pyarrow.memory_map(str(file))).read_all())
    return pyarrow.concat_tables(tables)


def _damaged(path: Path, error: Exception) -> CalibrationError:
    lines = str(error).strip().splitlines()
    return CalibrationError(
        f"{path}: cannot be read as a table: {lines[0] if lines else type(error).__name__}; the "
        "file is damaged, cut short, or of another kind"
    )
