"""Folders in which something is made, each held by a lock for as long as its maker lives.

Two entries of one name stand for a claim::

    .awqc-3f09c2ab61d8e574.lock     a file that the maker keeps locked; it goes last
    .awqc-3f09c2ab61d8e574/         the folder

The system lets go of the lock when the process ends, however it ends: a lock that can be taken
belongs to nobody, and its folder is a leftover (`awqc.artifacts.leftovers`).
"""

from __future__ import annotations

import atexit
import os
import secrets
import shutil
import sys
from pathlib import Path

if sys.platform != "win32":
    import fcntl

HIDDEN, SCRATCH = ".awqc-", "awqc-"
"""Prefixes of claims beside a target, and of those among other programs' temporary files."""

SUFFIX = ".lock"
ASIDE = "old"
"""Holds, in a claim, the former content of a target under the target's name."""

NOTE = b"awqc is at work here; its next start removes what a killed run left\n"
_held: dict[Path, int] = {}
"""The process that made each claim which is not yet removed."""


class Claim:
    """A new folder that is this process's alone.

    Attributes:
        path: the folder, which only its owner may read.
        new: a folder in it, for what is to be put in place.
    """

    def __init__(self, parent: Path, prefix: str = HIDDEN) -> None:
        descriptor = None
        while descriptor is None:
            self.path = parent / f"{prefix}{secrets.token_hex(8)}"
            _held[self.path] = os.getpid()
            descriptor = _locked_file(self.path.with_name(self.path.name + SUFFIX))
        self._descriptor = descriptor
        self.new = self.path / "new"
        try:
            self.path.mkdir(0o700)
            self.new.mkdir()
        except OSError:
            self.release()
            raise

    def release(self) -> None:
        """Remove the folder and let go of it; again, or in a forked process, does nothing."""
        if _held.get(self.path) == os.getpid():
            discard(self.path)
            del _held[self.path]
            os.close(self._descriptor)


def release_all() -> None:
    """Remove the claims of this process whose release was interrupted, or never came."""
    for path, process in list(_held.items()):
        if process == os.getpid():
            discard(path)
            del _held[path]


atexit.register(release_all)


def discard(path: Path) -> None:
    """Remove the claim at ``path``, which this process holds, the lock last.

    A target that was moved aside and has no successor is put back first.
    """
    try:
        _put_back(path)
        shutil.rmtree(path, ignore_errors=True)
        if not path.exists():
            path.with_name(path.name + SUFFIX).unlink(missing_ok=True)
    except OSError:
        pass  # A folder that can no longer be written to: the next start tries again.


def _put_back(path: Path) -> None:
    aside = path / ASIDE
    for content in aside.iterdir() if aside.is_dir() else ():
        place = path.parent / content.name
        if not os.path.lexists(place):
            content.rename(place)


def _locked_file(path: Path) -> int | None:
    """A new file at ``path``, locked; None if another process removes it as a leftover.

    That can happen before it is locked.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    if lock(descriptor) is False or not is_at(descriptor, path):
        os.close(descriptor)
        return None
    os.write(descriptor, NOTE)
    return descriptor


def lock(descriptor: int) -> bool | None:
    """Lock a file without waiting; False if another holds it, None if there are no locks here."""
    if sys.platform == "win32":
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def is_at(descriptor: int, path: Path) -> bool:
    """Whether the open file is the one that ``path`` names."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except OSError:
        return False
