"""A file that is mapped, and whether it is still what it was."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO


@dataclass(frozen=True)
class MappedFile:
    """A file as it was when it was mapped.

    Attributes:
        path: where it was; None of a file without a name.
        seen: its device, number, size, and when it was last written to.
    """

    path: Path | None
    seen: tuple[int, int, int, int]

    @classmethod
    def of(cls, file: BinaryIO) -> MappedFile:
        """Of a file that is open."""
        path = Path(os.path.abspath(file.name)) if isinstance(file.name, str) else None
        return cls(path, _look(os.fstat(file.fileno())))

    def changed(self) -> bool:
        """Whether it was written to; another file in its place, or none, is no harm."""
        if self.path is None:
            return False
        try:
            now = _look(os.stat(self.path))
        except OSError:
            return False
        return now[:2] == self.seen[:2] and now != self.seen


def _look(found: os.stat_result) -> tuple[int, int, int, int]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
