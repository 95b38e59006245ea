"""Progress on a terminal, silence elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import track as rich_track
from rich.text import Text

from awqc.machine.launched import rank_here
from awqc.machine.terminal import console

T = TypeVar("T")


def track(items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
    """``items``, ``total`` of them, with a progress bar on stderr where that is a terminal."""
    err = console(stderr=True)
    shown = _shown(err)
    total = len(items) if isinstance(items, Sized) else total
    yield from rich_track(
        items, f"{what:<18}", total=total, console=err, transient=True, disable=not shown
    )


@contextmanager
def stage(what: str) -> Iterator[None]:
    """Say on a terminal that ``what`` is going on; nothing elsewhere."""
    err = console(stderr=True)
    if not _shown(err):
        yield
        return
    with err.status(Text(what)):
        yield


def _shown(err: Console) -> bool:
    """Whether ``err`` is a terminal; of several ranks the first one shows where all of them are."""
    return err.is_terminal and sys.stderr.isatty() and rank_here() == 0
