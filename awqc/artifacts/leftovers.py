"""Find what a killed process left behind, and remove it; what lives is left alone."""

from __future__ import annotations

import os
import re
import stat
import sys
from contextlib import suppress
from pathlib import Path

from awqc.artifacts.claims import HIDDEN, NOTE, SCRATCH, SUFFIX, discard, is_at, lock

_LOCK = re.compile(rf"({re.escape(HIDDEN)}|{SCRATCH})[0-9a-f]{{16}}{re.escape(SUFFIX)}")


def clear_leftovers(folder: Path) -> None:
    """Remove the claims in ``folder`` whose process is gone.

    A target that a process had moved aside when it was killed is put back. Where ``folder``
    cannot be read or has no locks, nothing is done.
    """
    if sys.platform == "win32":
        return  # There is nothing there by which to know who lives.
    with suppress(OSError):
        names = [name for name in os.listdir(folder) if _LOCK.fullmatch(name)]
        for name in names:
            with suppress(OSError):
                _clear(folder / name)


def _clear(file: Path) -> None:
    descriptor = os.open(file, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        if _is_ours(descriptor) and lock(descriptor) and is_at(descriptor, file):
            discard(file.with_name(file.name.removesuffix(SUFFIX)))
    finally:
        os.close(descriptor)


def _is_ours(descriptor: int) -> bool:
    """Whether it is a lock file of this user's; one that was just made is still empty."""
    state = os.fstat(descriptor)
    regular = stat.S_ISREG(state.st_mode) and state.st_size <= len(NOTE)
    mine = state.st_uid == os.geteuid()
    return regular and mine and NOTE.startswith(os.pread(descriptor, len(NOTE), 0))
