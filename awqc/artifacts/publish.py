"""Put a finished folder in place as one step: a failed run leaves nothing and destroys nothing."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from awqc.errors import ExportError, UsageError, spelled

MARK = "report.json"


def check_replaceable(target: Path) -> None:
    """Refuse a ``target`` that holds something that awqc did not write.

    Raises:
        UsageError: it is a file, or a folder with other content, or cannot be written.
    """
    parent = next(path for path in target.absolute().parents if path.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise UsageError(
            f"{target}: {parent} is no folder that you may write to; give another "
            f"{spelled('output_dir')}"
        )
    if target.is_symlink() or target.is_file():
        raise UsageError(f"{target}: is a file; give another {spelled('output_dir')}")
    if target.is_dir() and any(target.iterdir()) and not (target / MARK).is_file():
        raise UsageError(
            f"{target}: holds files that awqc did not write (there is no {MARK}); "
            f"give another {spelled('output_dir')}, or empty it"
        )


class ScratchFolder:
    """A temporary folder that is removed when nothing holds it any more.

    Attributes:
        path: the folder.
    """

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="awqc-"))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


@contextmanager
def staging(target: Path) -> Iterator[Path]:
    """A folder beside ``target`` that takes its place when the block ends well.

    If the block raises, or is interrupted, the folder is removed and ``target`` stays as it
    was.

    Raises:
        UsageError: see `check_replaceable`.
        ExportError: the folder cannot be made or moved, for example on a full disk.
    """
    check_replaceable(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise ExportError(f"{target}: cannot be written: {error.strerror or error}") from error
    try:
        yield folder
        _replace(folder, target)
    except OSError as error:
        raise ExportError(
            f"{target}: could not be written: {error.strerror or error}; nothing was changed"
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _replace(folder: Path, target: Path) -> None:
    """Move ``folder`` to ``target``; the old target is put back if that fails."""
    mask = _umask()
    folder.chmod(0o777 & ~mask)
    for path in folder.rglob("*"):
        path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)
    if not target.exists():
        folder.rename(target)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent))
    try:
        target.rename(old / "content")
        folder.rename(target)
    finally:
        # Also after an interrupt between the two moves.
        if not target.exists():
            (old / "content").rename(target)
        shutil.rmtree(old, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
