"""The marker of a folder that awqc wrote: each file in it, with size and digest.

A folder is awqc's to replace as long as everything in it is what the marker says. A file more,
or one that was changed since, is somebody's work.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

MANIFEST = "awqc-files.json"
SCHEMA = 1


@dataclass(frozen=True)
class Entry:
    """A file as it was written.

    Attributes:
        bytes: its size.
        sha256: digest of its content.
    """

    bytes: int
    sha256: str


def entry_of(path: Path) -> Entry:
    """The file at ``path`` as it is now."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
        return Entry(file.tell(), digest.hexdigest())


def manifest_text(files: Mapping[str, Entry]) -> str:
    """The content of the marker for ``files``, by path within the folder."""
    entries = {name: asdict(files[name]) for name in sorted(files)}
    about = "what awqc wrote here; it replaces the folder only while all of it is unchanged"
    return json.dumps({"schema": SCHEMA, "about": about, "files": entries}, indent=2) + "\n"


def read_manifest(folder: Path) -> dict[str, Entry] | None:
    """What awqc wrote into ``folder``; None if there is no marker that can be read."""
    try:
        if (folder / MANIFEST).is_symlink():
            return None
        content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if content["schema"] != SCHEMA:
            return None
        files = {str(name): Entry(**entry) for name, entry in content["files"].items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    return None if any(_leads_out(name) for name in files) else files


def _leads_out(name: str) -> bool:
    path = PurePosixPath(name)
    return path.is_absolute() or ".." in path.parts or not path.parts


def files_of(folder: Path) -> Iterator[str]:
    """The path within ``folder`` of all that is in it: files, links, pipes, empty folders, …"""
    for inside, folders, files in os.walk(folder, onerror=_raise):
        folders.sort()
        base = Path(inside).relative_to(folder)
        links = [name for name in folders if Path(inside, name).is_symlink()]
        for name in sorted((*files, *links)):
            yield (base / name).as_posix()
        if not folders and not files and base.parts:
            yield f"{base.as_posix()}/"


def _raise(error: OSError) -> None:
    raise error


def strangers(folder: Path, files: Mapping[str, Entry]) -> list[str]:
    """What lies in ``folder`` and is not among ``files``."""
    return [name for name in files_of(folder) if name not in files and name != MANIFEST]


def changed(folder: Path, files: Mapping[str, Entry]) -> list[str]:
    """Those of ``files`` that are no longer what was written; one that is gone is not."""
    return [name for name, entry in files.items() if _is_changed(folder / name, entry)]


def _is_changed(path: Path, entry: Entry) -> bool:
    if not path.exists() and not path.is_symlink():
        return False
    if path.is_symlink() or not path.is_file() or path.stat().st_size != entry.bytes:
        return True
    return entry_of(path) != entry


def fingerprint(folder: Path) -> dict[str, tuple[int, ...]]:
    """What tells, without reading any content, that nothing in ``folder`` was touched."""
    states = {name: (folder / name).lstat() for name in files_of(folder)}
    return {
        name: (state.st_ino, state.st_size, state.st_mtime_ns) for name, state in states.items()
    }
