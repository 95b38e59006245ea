"""Signals that end a command: they unwind it as Ctrl-C does, so that it cleans up."""

from __future__ import annotations

import ctypes
import os
import signal
from types import FrameType
from typing import NoReturn

INTERRUPTED, TERMINATED = 130, 143
NAMES = ("SIGTERM", "SIGHUP")
LOST_PAGES = (
    "awqc: error: a file became shorter while it was read, or its disk failed; what segments had "
    "been finished is kept. Start again when the files of the model stay as they are\n"
)


class Terminated(KeyboardInterrupt):
    """The process was told to end, by another process or by its terminal's end."""


def stop_on_signals() -> None:
    """Let SIGTERM and SIGHUP raise `Terminated`; what the parent has them ignore stays ignored.

    For the command line alone: a library leaves its program's signals as they are.
    """
    for name in NAMES:
        number = getattr(signal, name, None)  # Windows has no SIGHUP.
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, _stop)


def tell_lost_pages() -> None:
    """Let SIGBUS end the process with words: a mapped file lost what is read of it.

    Python's own handlers run behind the instruction that was interrupted, which this signal
    repeats for ever. Linux and macOS only.
    """
    if number := getattr(signal, "SIGBUS", None):
        ctypes.CDLL(None).signal(int(number), _LOST)


def _lost(number: int) -> None:
    os.write(2, LOST_PAGES.encode())
    os._exit(1)


_LOST = ctypes.CFUNCTYPE(None, ctypes.c_int)(_lost)
"""Held for as long as the system may call it."""


def ignore_signals() -> None:
    """Let nothing but SIGKILL disturb the last cleaning up."""
    for name in (*NAMES, "SIGINT"):
        if number := getattr(signal, name, None):
            signal.signal(number, signal.SIG_IGN)


def exit_code(error: BaseException) -> int:
    """The command's exit code after an interruption, which click may have wrapped."""
    return TERMINATED if isinstance(error.__cause__ or error, Terminated) else INTERRUPTED


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    raise Terminated
