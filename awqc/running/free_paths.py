"""Names of files that are made of what a user said."""

from __future__ import annotations

from pathlib import Path

LONGEST = 40


def free_path(folder: Path, text: str, otherwise: str, ending: str) -> Path:
    """A file in ``folder`` that is not there yet, called by the words of ``text``.

    ``otherwise`` names one of a text without words.

    >>> free_path(Path("images"), "A cat, asleep!", "image-1", ".png").as_posix()
    'images/A-cat-asleep.png'
    """
    words = "".join(c if c.isalnum() else " " for c in text).split()
    stem = "-".join(words)[:LONGEST] or otherwise
    path, more = folder / f"{stem}{ending}", 1
    while path.exists():
        more += 1
        path = folder / f"{stem}-{more}{ending}"
    return path
