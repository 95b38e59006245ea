"""A process that holds nothing of awqc, in which published files are opened; see `fresh_child`.

One process serves all compiles of this one, as importing torch costs more than a small compile; it
ends by itself when it has nothing to do.
"""

from __future__ import annotations

import atexit
import os
import sys
from pathlib import Path
from typing import Any

from awqc.machine.child import Child, ChildGone

PATIENCE = 3600.0
"""Seconds for one job; then the file counts as one that does not open."""
IDLE = 60.0
"""Seconds without a job after which the process ends."""

_PROGRAM = Path(__file__).with_name("fresh_child.py")
_SAFE_PATH = "-P"
"""Keeps Python from importing what lies beside the program."""


class FreshProcess:
    """The process; started when it is needed, and again if it is gone."""

    def __init__(self) -> None:
        self._child: Child | None = None
        self._owed = 0
        self._owner = os.getpid()
        atexit.register(self.end)

    def warm(self, modules: tuple[str, ...]) -> None:
        """Let the process import ``modules`` while others work."""
        try:
            self._started().tell({"imports": modules})
        except ChildGone:
            self.end()
        else:
            self._owed += 1

    def ask(self, job: dict[str, Any]) -> str | None:
        """What went wrong in a job of `fresh_child`, or None."""
        for _ in range(2):
            try:
                return self._asked(job)
            except ChildGone as gone:
                self.end()
                if gone.late:
                    return f"no answer in {PATIENCE:.0f} seconds"
                if gone.code:
                    return f"its process ended with code {gone.code}, for want of memory perhaps"
        return "its process ends without an answer"  # not by chance, as when it was idle

    def _asked(self, job: dict[str, Any]) -> str | None:
        child = self._started()
        try:
            child.tell(job)
            for _ in range(self._owed):
                child.answer(PATIENCE)
                self._owed -= 1
            error: str | None = child.answer(PATIENCE).get("error")
        except BaseException:  # interrupted: an answer may still come, to nobody
            self.end()
            raise
        return error

    def end(self) -> None:
        """End the process, if there is one; a process that was forked off leaves it alone."""
        if self._child is not None and self._owner == os.getpid():
            self._child.end()
        self._child, self._owed = None, 0

    def _started(self) -> Child:
        if self._owner != os.getpid() or (self._child is not None and not self._child.alive):
            self.end()
            self._owner = os.getpid()
        if self._child is None:
            self._child = Child([sys.executable, _SAFE_PATH, str(_PROGRAM), str(IDLE)])
        return self._child


FRESH = FreshProcess()
