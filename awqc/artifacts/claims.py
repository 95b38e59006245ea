"""Folders in which something is made, each held by a lock for as long as its maker lives.

Two entries of one name stand for a claim::

    .awqc-k3v9x2ab.lock     a file that the maker keeps locked; it goes last
    .awqc-k3v9x2ab/         the folder

The system lets go of the lock when the process ends, however it ends: a lock that can be taken
belongs to nobody, and its folder is a leftover (`awqc.artifacts.leftovers`).
"""

from __future__ import annotations

import errno
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
ATTEMPTS = 100


class Claim:
    """A new folder that is this process's alone.

    Attributes:
        path: the folder, which only its owner may read.
        new: a folder in it, for what is to be put in place.
    """

    def __init__(self, parent: Path, prefix: str = HIDDEN) -> None:
        for _ in range(ATTEMPTS):
            path = parent / f"{prefix}{secrets.token_hex(4)}"
            descriptor = _locked_file(path.with_name(path.name + SUFFIX))
            if descriptor is not None:
                break
        else:
            raise OSError(errno.EEXIST, "no temporary folder can be made", str(parent))
        self._descriptor, self._process = descriptor, os.getpid()
        self.path, self.new = path, path / "new"
        try:
            self.path.mkdir(0o700)
            self.new.mkdir()
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Remove the folder and let go of it; again, or in a forked process, does nothing."""
        if self._descriptor is None or self._process != os.getpid():
            return
        descriptor, self._descriptor = self._descriptor, None
        discard(self.path, descriptor)


def discard(path: Path, descriptor: int) -> None:
    """Remove the claim at ``path`` whose lock is held by ``descriptor``, the lock last.

    A target that was moved aside and has no successor is put back first.
    """
    try:
        _put_back(path)
        shutil.rmtree(path, ignore_errors=True)
        if not path.exists():
            path.with_name(path.name + SUFFIX).unlink(missing_ok=True)
    except OSError:
        pass  # A folder that can no longer be written to: the next start tries again.
    finally:
        os.close(descriptor)


def _put_back(path: Path) -> None:
    aside = path / ASIDE
    for content in aside.iterdir() if aside.is_dir() else ():
        place = path.parent / content.name
        if not os.path.lexists(place):
            content.rename(place)


def _locked_file(path: Path) -> int | None:
    """A new file at ``path``, locked; None if the name is taken."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return None
    # Another process may take the file for a leftover before it is locked, and remove it.
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
