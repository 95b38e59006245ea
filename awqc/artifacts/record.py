"""What a run puts in place: after an interruption the command line tells what is true of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

Record = dict[Path, os.stat_result]
"""By its path, what a file or folder is that was to be put there, in place or not."""

_record: ContextVar[Record | None] = ContextVar("_record", default=None)


@contextmanager
def recording() -> Iterator[Record]:
    """What the block puts in place."""
    record: Record = {}
    token = _record.set(record)
    try:
        yield record
    finally:
        _record.reset(token)


def about_to_place(made: Path, place: Path) -> None:
    """Note that ``made`` is on its way to ``place``; called first, it cannot come too late."""
    record = _record.get()
    if record is not None:
        record[place] = made.stat()


def said(record: Record) -> str:
    """What of ``record`` is in place now, for a message.

    >>> said({})
    'nothing was written'
    """
    there = {path for path, state in record.items() if _is_there(path, state)}
    names = [os.path.relpath(path) for path in record if path in there - _inside(there)]
    return f"{', '.join(names)} had been written" if names else "nothing was written"


def _inside(paths: set[Path]) -> set[Path]:
    """Those of ``paths`` that lie in another."""
    return {path for path in paths if not paths.isdisjoint(path.parents)}


def _is_there(path: Path, state: os.stat_result) -> bool:
    try:
        empty = path.is_dir() and not any(path.iterdir())
        return os.path.samestat(path.stat(), state) and not empty
    except OSError:
        return False
