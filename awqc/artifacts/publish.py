"""Put a finished folder in place as one step: a failed run leaves nothing and destroys nothing.

A folder is made in a claim beside its target. All of it is on the disk before it takes the
target's place, in one exchange where the system has one. Whenever the process is killed, the
target is what it was or what it is to be; the next start removes the rest.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from awqc.artifacts.claims import ASIDE, Claim
from awqc.artifacts.exchange import exchange
from awqc.artifacts.manifest import MANIFEST, entry_of, files_of, fingerprint, manifest_text
from awqc.artifacts.record import about_to_place
from awqc.artifacts.target import ATTEMPTS, Fingerprint, check_unchanged, prepare_folder
from awqc.errors import ExportError, UsageError

NO_FLUSH = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)
"""What file systems answer that cannot be told to flush a folder."""

OCCUPIED = (errno.ENOTEMPTY, errno.EEXIST)
"""What a rename answers where a folder stands already."""


@contextmanager
def staging(target: Path, used: Iterable[Path] = ()) -> Iterator[Path]:
    """A folder beside ``target`` that takes its place when the block ends well.

    If the block raises, or is interrupted, the folder is removed and ``target`` stays as it
    was. ``used`` are files and folders that must not be in the target's way.

    Raises:
        UsageError: see `prepare_folder`; also for what happened to ``target`` in the meantime.
        ExportError: the folder cannot be made or moved, for example on a full disk.
    """
    place = prepare_folder(target, used)
    try:
        _make_parents(place)
        claim = Claim(place.parent)
    except OSError as error:
        raise ExportError(f"{target}: cannot be written: {error.strerror or error}") from error
    try:
        yield claim.new
        _seal(claim.new)
        _publish(claim, place, str(target))
    except OSError as error:
        raise ExportError(
            f"{target}: could not be written: {error.strerror or error}; nothing was changed"
        ) from error
    finally:
        claim.release()


@contextmanager
def staging_file(path: Path) -> Iterator[Path]:
    """A path that takes the place of the file ``path`` when the block ends well.

    Raises:
        OSError: it cannot be written; what was there is unchanged.
    """
    place = Path(os.path.realpath(path))
    claim = Claim(place.parent)
    try:
        made = claim.new / place.name
        yield made
        made.chmod(0o666 & ~_umask())
        _flush(made)
        about_to_place(made, place)
        made.replace(place)
        _flush(place.parent)
    finally:
        claim.release()


def _seal(folder: Path) -> None:
    """Give ``folder`` its marker and usual permissions, and have all of it on the disk."""
    _remove_empty_folders(folder)
    files = {name: entry_of(folder / name) for name in files_of(folder) if name != MANIFEST}
    (folder / MANIFEST).write_text(manifest_text(files), encoding="utf-8")
    mask = _umask()
    for path in (*folder.rglob("*"), folder):
        path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)
        _flush(path)


def _remove_empty_folders(folder: Path) -> None:
    for inside, _, _ in os.walk(folder, topdown=False):
        if inside != str(folder) and not os.listdir(inside):
            os.rmdir(inside)


def _publish(claim: Claim, place: Path, shown: str) -> None:
    """Let ``claim.new`` take the place of what is at ``place``."""
    about_to_place(claim.new, place)
    if not any(_replace(claim, place, shown) for _ in range(ATTEMPTS)):
        raise UsageError(f"{shown}: other runs write there all the time; give another folder")
    try:
        _flush(place.parent)
    except OSError as error:
        raise ExportError(
            f"{shown}: is in place, but the disk does not confirm it: {error.strerror or error}"
        ) from error


def _replace(claim: Claim, place: Path, shown: str) -> bool:
    """Whether ``claim.new`` is in place; False if another run changed what is there."""
    if not place.exists():
        return _rename(claim.new, place)
    try:
        seen = check_unchanged(place, shown)
    except OSError:
        if place.exists():
            raise
        return False
    if not exchange(claim.new, place):
        return _move_aside(claim, place, seen, shown)
    try:
        _check_seen(claim.new, seen, shown)
    except BaseException:
        exchange(claim.new, place)
        raise
    return True


def _move_aside(claim: Claim, place: Path, seen: Fingerprint, shown: str) -> bool:
    """The same by two renames; without the second, the end of the claim puts the folder back."""
    aside = claim.path / ASIDE
    aside.mkdir(exist_ok=True)
    try:
        place.rename(aside / place.name)
        _check_seen(aside / place.name, seen, shown)
        return _rename(claim.new, place)
    except FileNotFoundError:
        return False
    finally:
        if os.path.lexists(place):
            shutil.rmtree(aside)


def _check_seen(old: Path, seen: Fingerprint, shown: str) -> None:
    """Look again at the folder that made room, if it was touched since it was ``seen``."""
    if fingerprint(old) != seen:
        check_unchanged(old, shown)


def _rename(new: Path, place: Path) -> bool:
    """Whether ``new`` was moved to ``place``; False if there was something by then."""
    try:
        new.rename(place)
    except OSError as error:
        # What was there may be gone again already: another run is moving it aside.
        if error.errno in OCCUPIED or place.exists():
            return False
        raise
    return True


def _make_parents(place: Path) -> None:
    """Make the folders above ``place``, so that they outlast a power cut."""
    missing = [path for path in place.parents if not path.exists()]
    place.parent.mkdir(parents=True, exist_ok=True)
    for path in missing:
        _flush(path.parent)


def _flush(path: Path) -> None:
    """Wait until ``path``, a file or a folder's list of names, is on the disk."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:
        return  # Windows opens no folder; what awqc made it may read.
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NO_FLUSH:
            raise
    finally:
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
