"""Folders for temporary files, gone when nobody holds them, or at the next start."""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from awqc.artifacts.claims import SCRATCH, Claim
from awqc.artifacts.leftovers import clear_leftovers


class ScratchFolder:
    """A temporary folder that is removed when nothing holds it any more.

    Attributes:
        path: the folder.
    """

    def __init__(self) -> None:
        claim = _claim()
        self.path = claim.new
        weakref.finalize(self, claim.release)


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A temporary folder for the block."""
    claim = _claim()
    try:
        yield claim.new
    finally:
        claim.release()


def _claim() -> Claim:
    parent = Path(tempfile.gettempdir())
    clear_leftovers(parent)
    return Claim(parent, SCRATCH)
