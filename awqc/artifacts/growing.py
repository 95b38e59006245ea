"""A folder that fills file by file while a run goes on, under the same marker as others."""

from __future__ import annotations

import hashlib
import os
import weakref
from collections.abc import Iterable
from pathlib import Path

from awqc.artifacts.claims import lock
from awqc.artifacts.leftovers import clear_leftovers
from awqc.artifacts.locations import real_place
from awqc.artifacts.manifest import MANIFEST, Entry, manifest_text, read_manifest
from awqc.artifacts.publish import staging_file
from awqc.artifacts.record import about_to_place
from awqc.artifacts.target import check_unchanged, prepare_folder
from awqc.errors import UsageError


class GrowingFolder:
    """Text files, each of which is there as soon as it is added.

    What an earlier run left is removed when the first file comes. The marker names a file
    before it is there, so that awqc knows it as its own whenever the run is killed.

    Args:
        path: the folder; see `prepare_folder` for what it may hold.
        used: what the same run reads, or writes as well.
        option: what the user gave ``path`` to, for messages.

    Raises:
        UsageError: see `prepare_folder`.
    """

    def __init__(self, path: Path, used: Iterable[Path], option: str) -> None:
        self._shown, self._files = f"{option} {path}", dict[str, Entry]()
        self._lock: int | None = None
        clear_leftovers(real_place(path))
        self.path = prepare_folder(path, used, option)

    def add(self, name: str, text: str) -> None:
        """Write ``text`` to the file ``name``.

        Raises:
            UsageError: another run writes into the folder, or it was changed in the meantime.
            OSError: it cannot be written.
        """
        if self._lock is None:
            self._begin()
        content = text.encode()
        self._files[name] = Entry(len(content), hashlib.sha256(content).hexdigest())
        with staging_file(self.path / MANIFEST) as made:
            made.write_text(manifest_text(self._files), encoding="utf-8")
        with staging_file(self.path / name) as made:
            made.write_bytes(content)

    def _begin(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(self.path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._lock)
        if lock(self._lock) is False:
            raise UsageError(f"{self._shown}: another run writes there; give another folder")
        check_unchanged(self.path, self._shown)
        about_to_place(self.path, self.path)
        for name in read_manifest(self.path) or ():
            (self.path / name).unlink(missing_ok=True)
