"""Which files are images or audio, and those that a path, a folder or a pattern names."""

from __future__ import annotations

import glob
from collections.abc import Mapping, Sequence
from pathlib import Path

from awqc.errors import UsageError, spelled
from awqc.program import AUDIO, IMAGE

SUFFIXES: Mapping[str, tuple[str, ...]] = {
    IMAGE: (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
    AUDIO: (".wav", ".flac", ".ogg", ".mp3"),
}
"""Endings of the files of each kind."""


def kind_of(path: Path) -> str | None:
    """What a file is by its name: ``image``, ``audio``, or None for something else."""
    ending = path.suffix.lower()
    return next((kind for kind, endings in SUFFIXES.items() if ending in endings), None)


def find_media(path: Path) -> tuple[Path, ...] | None:
    """The images and audio files that ``path`` names, in order; None where it names other data.

    A folder stands for all in it and in its folders, a pattern such as ``photos/*.jpg`` for what
    fits it.

    Raises:
        UsageError: a folder or pattern has none.
    """
    if path.is_dir():
        return _only_media(path, sorted(each for each in path.rglob("*") if each.is_file()))
    if not path.exists() and glob.has_magic(str(path)):
        return _only_media(
            path, [Path(each) for each in sorted(glob.glob(str(path), recursive=True))]
        )
    return (path,) if kind_of(path) is not None else None


def _only_media(where: Path, files: Sequence[Path]) -> tuple[Path, ...]:
    media = tuple(file for file in files if kind_of(file) is not None)
    if not media:
        endings = ", ".join(ending for kind in SUFFIXES.values() for ending in kind)
        raise UsageError(
            f"{where}: {spelled('calib')} names no image and no audio file there "
            f"({len(files)} other files); they end with {endings}"
        )
    return media
