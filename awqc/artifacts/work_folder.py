"""A folder in which the work of one compile outlasts a kill, file by file.

It has the marker of every folder that awqc writes (`awqc.artifacts.manifest`), ``compile.json``,
which says what is compiled, and records: trees of tensors. A record is on the disk as a whole
before it has its name, and the marker knows its digest before that; one that is not what the
marker says is damaged, and is not there. One process at a time holds the folder, by a lock that
the system lets go of when the process ends.
"""

from __future__ import annotations

import json
import os
import re
import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from awqc.artifacts.claims import is_at, lock
from awqc.artifacts.json_files import Object
from awqc.artifacts.leftovers import clear_leftovers
from awqc.artifacts.manifest import (
    MANIFEST,
    Entry,
    changed,
    entry_of,
    files_of,
    manifest_text,
    read_manifest,
)
from awqc.artifacts.publish import staging_file
from awqc.artifacts.record import recording
from awqc.artifacts.target import check_apart, check_parent
from awqc.artifacts.tensor_trees import Keep, as_it_is, read_tensor_tree, write_tensor_tree
from awqc.errors import ExportError, UsageError, spelled

HEADER, NOTED = "compile.json", "noted"
RECORD = ".safetensors"
DIGEST = "digest "
"""Before what says nothing to a reader of a message."""

SHOWN = 3
LONGEST = 255
"""Bytes of a file's name."""

_OURS = re.compile(rf"{re.escape(HEADER)}|[a-z]+-\d+{re.escape(RECORD)}")
_ELSEWHERE = f"give another folder with {spelled('work_dir')}"


def work_folder_beside(target: Path) -> Path:
    """Where the work for the output folder ``target`` lies by default.

    >>> work_folder_beside(Path("models/smol"))
    PosixPath('models/.smol.awqc-work')
    """
    name = f".{target.name}.awqc-work"
    return target.with_name(name if len(os.fsencode(name)) <= LONGEST else ".awqc-work")


class WorkFolder:
    """The folder, which is made when it is taken.

    Args:
        path: where it is, or is to be.
        used: files and folders that the same run reads, or writes as well.

    Raises:
        UsageError: it holds, is, or lies in one of ``used``, holds what awqc did not write there,
            cannot be written, or another process is at work in it.
    """

    def __init__(self, path: Path, used: Iterable[Path] = ()) -> None:
        self.path = Path(os.path.realpath(path))
        self._shown = f"{spelled('work_dir')} {path}"
        self._lock: int | None = None
        self._files: dict[str, Entry] = {}
        check_parent(self.path, self._shown, _ELSEWHERE)
        check_apart(self.path, self._shown, used, _ELSEWHERE)
        if os.path.lexists(self.path):
            self._hold()
            try:
                self._check_own()
            finally:
                self.release()

    def noted(self) -> dict[str, int]:
        """What `take` was given to note, of the work that is there; empty without any."""
        self._files = read_manifest(self.path) or {}
        if HEADER not in self._files or not self._is_there(HEADER) or self._is_damaged(HEADER):
            return {}
        found = Object.of(self.path / HEADER)
        return found.inside(NOTED).values(int) if NOTED in found.content else {}

    def take(
        self, what: Mapping[str, str], fresh: bool, note: Mapping[str, int] | None = None
    ) -> None:
        """Hold the folder, for the compile that ``what`` describes.

        A value that begins with `DIGEST` is not shown where it differs. ``fresh`` removes what is
        there of any compile. ``note`` is kept, and does not tell compiles apart.

        Raises:
            UsageError: as above; or what is there belongs to another compile.
            ExportError: it cannot be written.
        """
        self._hold()
        try:
            self._begin(what, fresh, note or {})
        except BaseException:
            self.release()
            raise

    def _begin(self, what: Mapping[str, str], fresh: bool, note: Mapping[str, int]) -> None:
        self._check_own()
        self._files = read_manifest(self.path) or {}
        if fresh:
            self._clear()
        if any(self._is_there(name) for name in self._files):
            self._check_same(what)
            return
        with self._writing(HEADER) as made:
            text = json.dumps({"compile": dict(what), NOTED: dict(note)}, indent=1)
            made.write_text(text + "\n", encoding="utf-8")

    def names(self) -> list[str]:
        """Names of the records that are whole."""
        found = [name for name in self._files if name != HEADER and self._is_there(name)]
        return [name.removesuffix(RECORD) for name in found if not self._is_damaged(name)]

    def damaged(self) -> list[str]:
        """Names of the records that are there and not what was written."""
        found = [name for name in self._files if name != HEADER and self._is_damaged(name)]
        return [name.removesuffix(RECORD) for name in found]

    def add(self, name: str, tree: Any) -> None:
        """Keep ``tree`` as the record ``name``: letters, ``-`` and digits.

        Raises:
            ExportError: it cannot be written; what was kept before still is.
        """
        assert _OURS.fullmatch(name + RECORD), name
        with self._writing(name + RECORD) as made:
            write_tensor_tree(tree, made)

    def read(self, name: str, keep: Keep = as_it_is) -> Any:
        """The record ``name``, one of `names`; see `read_tensor_tree`."""
        return read_tensor_tree(self.path / (name + RECORD), keep)

    def written(self, name: str) -> float:
        """When the record ``name``, one of `names`, was written, by the clock of that time."""
        return (self.path / (name + RECORD)).stat().st_mtime

    def drop(self, name: str) -> None:
        """Let go of the record ``name``."""
        with suppress(OSError):  # It is in nobody's way.
            (self.path / (name + RECORD)).unlink(missing_ok=True)
        self._files.pop(name + RECORD, None)

    def remove(self) -> None:
        """Remove the folder, if it is held; what somebody else put there stays."""
        if self._lock is None:
            return
        with suppress(OSError):
            self._clear()
            (self.path / MANIFEST).unlink(missing_ok=True)
            self.path.rmdir()
        self.release()

    def release(self) -> None:
        """Let others hold it."""
        if self._lock is not None:
            self._closing()
            self._lock = None

    def _hold(self) -> None:
        while self._lock is None:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                descriptor = os.open(self.path, os.O_RDONLY)
            except OSError as error:
                raise UsageError(
                    f"{self._shown}: is no folder that you may write to: "
                    f"{error.strerror or error}; {_ELSEWHERE}"
                ) from error
            held = lock(descriptor)
            if held is False or not is_at(descriptor, self.path):  # or it was just removed
                os.close(descriptor)
            else:
                self._lock = descriptor
                self._closing = weakref.finalize(self, os.close, descriptor)
            if held is False:
                raise UsageError(
                    f"{self._shown}: another compile is at work there; wait until it has ended, "
                    f"or {_ELSEWHERE}"
                )

    def _check_own(self) -> None:
        """Refuse a folder with anything in it that no compile keeps there."""
        clear_leftovers(self.path)
        listed = read_manifest(self.path) or {}
        others = [
            name
            for name in files_of(self.path)
            if name != MANIFEST and not (name in listed and _OURS.fullmatch(name))
        ]
        if others:
            more = f" and {len(others) - SHOWN} more" if len(others) > SHOWN else ""
            raise UsageError(
                f"{self._shown}: holds what is no work of a compile: "
                f"{', '.join(others[:SHOWN])}{more}; move it elsewhere, or {_ELSEWHERE}"
            )

    def _check_same(self, what: Mapping[str, str]) -> None:
        advice = (
            f"give {spelled('fresh', True)} to remove it and start anew, or {_ELSEWHERE} to keep it"
        )
        if not self._is_there(HEADER) or self._is_damaged(HEADER):
            raise UsageError(
                f"{self._shown}: {HEADER}, which says what the work there belongs to, is damaged "
                f"or missing; {advice}"
            )
        found = Object.of(self.path / HEADER).inside("compile").values(str)
        if told := _differences(found, what):
            raise UsageError(
                f"{self._shown}: the work there belongs to another compile: {told}; {advice}"
            )

    def _is_there(self, name: str) -> bool:
        return (self.path / name).is_file()

    def _is_damaged(self, name: str) -> bool:
        try:
            return bool(changed(self.path, {name: self._files[name]}))
        except OSError:
            return True

    @contextmanager
    def _writing(self, name: str) -> Iterator[Path]:
        """A path that becomes the file ``name`` once the marker knows it."""
        try:
            with recording(), staging_file(self.path / name) as made:
                yield made
                self._files[name] = entry_of(made)
                with staging_file(self.path / MANIFEST) as marker:
                    marker.write_text(manifest_text(self._files), encoding="utf-8")
        except OSError as error:
            raise ExportError(
                f"{self._shown}: {name} could not be written: {error.strerror or error}; what was "
                f"kept before still is. Make room there, or {_ELSEWHERE}"
            ) from error

    def _clear(self) -> None:
        """Remove all that is kept; what says whose it is goes last."""
        for name in sorted(self._files, key=lambda name: name == HEADER):
            (self.path / name).unlink(missing_ok=True)
        self._files = {}


def _differences(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """What differs, in words; empty if nothing does."""
    told = [
        _difference(name, before.get(name), now.get(name))
        for name in dict.fromkeys([*now, *before])
        if before.get(name) != now.get(name)
    ]
    more = f" and {len(told) - SHOWN} more" if len(told) > SHOWN else ""
    return ", ".join(told[:SHOWN]) + more


def _difference(name: str, before: str | None, now: str | None) -> str:
    """One of them.

    >>> _difference("torch", "2.9.0", "2.13.0"), _difference("data", "digest a", "digest b")
    ('torch: 2.9.0 there, 2.13.0 now', 'other data')
    """
    if DIGEST in (str(before)[: len(DIGEST)], str(now)[: len(DIGEST)]):
        return f"other {name}"
    return f"{name}: {before or 'none'} there, {now or 'none'} now"
