"""Where a path really leads, by the file system and not by its text."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

MOST_LINKS = 40
"""Symbolic links on the way to a file; Linux follows no more either."""


def real_place(path: Path) -> Path:
    """``path`` with all links in its parents resolved, while it itself may be a link.

    >>> real_place(Path("/usr/../nowhere"))
    PosixPath('/nowhere')
    """
    if path.name in ("", ".."):
        return Path(os.path.realpath(path))
    return Path(os.path.realpath(path.parent)) / path.name


def places(path: Path) -> Iterator[Path]:
    """What must stay where it is for ``path`` to be read: each link on the way, and the end.

    Of a folder also its links, and where they lead: a Hugging Face folder may be made of them.
    """
    yield from _way(path)
    if path.is_dir():
        for folder, names, files in os.walk(path):
            for name in (*names, *files):
                inside = Path(folder, name)
                if inside.is_symlink():
                    yield from _way(inside)


def _way(path: Path) -> Iterator[Path]:
    """Each link that is followed from ``path``, in ``path`` and behind it, and where it ends."""
    here, rest, links = Path(os.sep), list(Path.cwd().joinpath(path).parts[1:]), 0
    while rest:
        part = rest.pop(0)
        if part == os.pardir:
            here = here.parent
            continue
        step = here / part
        if step.is_symlink() and links < MOST_LINKS:
            links += 1
            yield step
            to = Path(os.readlink(step))
            rest = [*(to.parts[1:] if to.is_absolute() else to.parts), *rest]
            here = Path(os.sep) if to.is_absolute() else here
        else:
            here = step
    yield here


def identities(path: Path) -> set[tuple[int, int]]:
    """What the file ``path``, or each file in the folder, is whatever its name (hard links)."""
    files = [Path(folder, name) for folder, _, names in os.walk(path) for name in names]
    states = [file.stat() for file in files or [path] if file.is_file()]
    return {(state.st_dev, state.st_ino) for state in states}


def within(place: Path, folder: Path) -> bool:
    """Whether ``place`` is ``folder`` or lies in it; neither needs to exist.

    Files that exist are compared by what they are, so that spelling does not matter.
    """
    return any(same_place(up, folder) for up in (place, *place.parents))


def same_place(one: Path, two: Path) -> bool:
    """Whether two paths are one file or folder."""
    try:
        return os.path.samefile(one, two)
    except OSError:
        return one == two
