"""Signals that end a command: they unwind it as Ctrl-C does, so that it cleans up."""

from __future__ import annotations

import signal
from types import FrameType
from typing import NoReturn

INTERRUPTED, TERMINATED = 130, 143
NAMES = ("SIGTERM", "SIGHUP")


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
