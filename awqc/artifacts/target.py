"""Where results may be put: nothing, an empty folder, or one that awqc wrote and nobody changed."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from awqc.artifacts.leftovers import clear_leftovers
from awqc.artifacts.locations import identities, places, real_place, same_place, within
from awqc.artifacts.manifest import MANIFEST, changed, fingerprint, read_manifest, strangers
from awqc.errors import UsageError, spelled

T = TypeVar("T")
Fingerprint = dict[str, tuple[int, ...]]
EARLIER = "report.json"
"""What versions of awqc without the marker knew their folders by."""

ATTEMPTS = 10
"""How often other runs may replace a target while this one looks at it, or is about to."""

SHOWN = 3
FOLDER, LINK = "a folder", "a symbolic link"
KINDS = {
    stat.S_IFDIR: FOLDER,
    stat.S_IFREG: "a file",
    stat.S_IFLNK: LINK,
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
}
ELSEWHERE = "give another output folder"


def prepare_folder(path: Path, used: Iterable[Path] = (), option: str = "") -> Path:
    """Make sure that ``path`` may be replaced; returns it with its links resolved.

    What killed runs left beside it, and among temporary files, is removed first.

    Args:
        path: where a folder is to be put.
        used: files and folders that the same run reads, or writes as well.
        option: what the user gave ``path`` to, for messages; empty: ``output_dir``.

    Raises:
        UsageError: it holds, is, or lies in one of ``used``; holds what awqc did not write, or
            wrote and somebody changed; is no folder; or cannot be written.
    """
    place = real_place(path)
    shown = f"{option or spelled('output_dir')} {path}"
    check_parent(place, shown)
    clear_leftovers(Path(tempfile.gettempdir()))
    clear_leftovers(place.parent)
    try:
        _settled(place, lambda: _check_kind_and_files(place, shown))
        check_apart(place, shown, used)
        if place.exists():
            check_unchanged(place, shown)
    except FileNotFoundError as error:
        raise UsageError(f"{shown}: other runs write there just now; {ELSEWHERE}") from error
    except OSError as error:
        raise UsageError(
            f"{shown}: cannot be read: {error.strerror or error}; {ELSEWHERE}"
        ) from error
    return place


def prepare_file(path: Path, option: str) -> None:
    """Make sure that ``path`` is a file, or that one can be put there.

    Raises:
        UsageError: it is something else, or its folder is missing or cannot be written to.
    """
    place = Path(os.path.realpath(path))
    if place.is_file():
        return
    if os.path.lexists(place):
        raise UsageError(f"{option} {path}: is {_kind(place)}; give a file, or a name for one")
    if not place.parent.is_dir() or not os.access(place.parent, os.W_OK | os.X_OK):
        raise UsageError(
            f"{option} {path}: {place.parent} is no folder that you may write to; give another file"
        )
    clear_leftovers(place.parent)


def check_unchanged(place: Path, shown: str) -> Fingerprint:
    """Refuse a folder with files that somebody changed since awqc wrote them, or added.

    Returns what tells that nothing is touched from now on.
    """
    return _settled(place, lambda: _check_content(place, shown))


def _settled(place: Path, check: Callable[[], T]) -> T:
    """What ``check`` finds, anew if another run replaced or moved ``place`` while it looked."""
    for _ in range(ATTEMPTS):
        before = _identity(place)
        try:
            return check()
        except (OSError, UsageError):
            if before is not None and before == _identity(place):
                raise
    return check()


def _identity(place: Path) -> tuple[int, int, int] | None:
    """Which folder it is, and when it last changed: a rename is such a change."""
    try:
        state = place.lstat()
    except OSError:
        return None
    return state.st_dev, state.st_ino, state.st_ctime_ns


def _check_kind_and_files(place: Path, shown: str) -> None:
    if os.path.lexists(place):
        _check_kind(place, shown)
        _check_strangers(place, shown)


def _check_content(place: Path, shown: str) -> Fingerprint:
    _check_kind(place, shown)
    state = fingerprint(place)  # First: what comes after it is seen by who compares it later.
    _check_strangers(place, shown)
    edited = changed(place, read_manifest(place) or {})
    if edited:
        raise UsageError(
            f"{shown}: holds files that were changed since awqc wrote them: {_listed(edited)}; "
            "replacing the folder would lose that. Keep what you need elsewhere and delete the "
            f"folder, or {ELSEWHERE}"
        )
    return state


def check_parent(place: Path, shown: str, advice: str = ELSEWHERE) -> None:
    """Refuse a place in which no folder can be made."""
    parent = next((path for path in place.parents if path.exists()), place)
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise UsageError(f"{shown}: {parent} is no folder that you may write to; {advice}")


def _check_kind(place: Path, shown: str) -> None:
    kind = _kind(place)
    if kind == LINK:
        raise UsageError(
            f"{shown}: is {kind} to {os.readlink(place)}; give that folder itself, or {ELSEWHERE}"
        )
    if kind != FOLDER:
        raise UsageError(f"{shown}: is {kind}; {ELSEWHERE}")
    if place.is_mount():
        raise UsageError(
            f"{shown}: is a mount point, which cannot be replaced; give a folder in it, "
            f"as {place / 'model-awq'}"
        )


def _kind(place: Path) -> str:
    return KINDS[stat.S_IFMT(place.lstat().st_mode)]


def _check_strangers(place: Path, shown: str) -> None:
    files = read_manifest(place)
    found = strangers(place, files or {})
    if files is None and (place / EARLIER).is_file() and not (place / MANIFEST).exists():
        raise UsageError(
            f"{shown}: looks like the output of an earlier awqc, which kept no list of what it "
            f"wrote (there is no {MANIFEST}), so nothing tells what in it is yours: "
            f"{_listed(found)}. If it holds nothing that you need, delete the folder; "
            f"else {ELSEWHERE}"
        )
    if found:
        raise UsageError(
            f"{shown}: holds files that awqc did not write: {_listed(found)}; move them "
            f"elsewhere, or {ELSEWHERE}"
        )


def check_apart(place: Path, shown: str, used: Iterable[Path], advice: str = ELSEWHERE) -> None:
    """Refuse a target whose replacement would take away what the run uses, or change it."""
    held = identities(place)
    for path in (path.expanduser() for path in used):
        end = Path(os.path.realpath(path))
        if same_place(end, place):
            what = "is"
        elif not path.is_file() and within(place, end):
            what = "lies in"
        elif held & identities(path) or any(within(step, place) for step in places(path)):
            what = "holds"
        else:
            continue
        raise UsageError(f"{shown}: {what} {path}, which this run reads or writes itself; {advice}")


def _listed(names: Sequence[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")
