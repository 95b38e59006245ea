"""Files of media that lie somewhere on disk, or as bytes in a table."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO


@dataclass(frozen=True)
class Blob:
    """The content of a file, as a table holds it.

    Attributes:
        name: where it is, for messages.
        data: what a file would hold.
    """

    name: str
    data: bytes = field(repr=False)

    def __str__(self) -> str:
        return self.name


MediaFile = Path | Blob


def is_there(file: MediaFile) -> bool:
    """Whether it can be opened."""
    return isinstance(file, Blob) or file.is_file()


def open_binary(file: MediaFile) -> BinaryIO:
    """Its content, to be closed by the caller."""
    return io.BytesIO(file.data) if isinstance(file, Blob) else file.open("rb")
