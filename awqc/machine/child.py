"""A process that answers lines of JSON with lines of JSON."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Any


class ChildGone(Exception):  # noqa: N818 - what happened, which its caller words
    """The process ended, or was ended because it took too long, before it answered.

    Attributes:
        code: its exit code; negative: the signal that ended it.
        late: whether it took too long.
    """

    def __init__(self, code: int, late: bool) -> None:
        super().__init__(f"ended with code {code}")
        self.code, self.late = code, late


class Child:
    """A running process; it ends with its standard input, however its starter ends.

    Attributes:
        process: the process itself.
    """

    def __init__(self, command: Sequence[str]) -> None:
        """Start ``command``; what it says on standard error is dropped."""
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True, encoding="utf-8",
        )  # fmt: skip

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self.process.poll() is None

    def tell(self, content: Any) -> None:
        """Write a line.

        Raises:
            ChildGone: it has ended.
        """
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(content) + "\n")
            self.process.stdin.flush()
        except (BrokenPipeError, OSError):
            raise ChildGone(self.process.wait(), late=False) from None

    def answer(self, patience: float | None = None) -> dict[str, Any]:
        """Wait for a line, for ``patience`` seconds at most.

        Raises:
            ChildGone: it ended before, or did not answer in time.
        """
        assert self.process.stdout is not None
        late = threading.Event()

        def end() -> None:
            late.set()
            self.process.kill()

        clock = threading.Timer(patience, end) if patience else None
        if clock is not None:
            clock.daemon = True
            clock.start()
        try:
            line = self.process.stdout.readline()
        finally:
            if clock is not None:
                clock.cancel()
        if not line:
            raise ChildGone(self.process.wait(), late.is_set())
        content: dict[str, Any] = json.loads(line)
        return content

    def end(self) -> None:
        """End it now."""
        self.process.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            with suppress(OSError):  # what was not yet written has no reader
                if pipe is not None:
                    pipe.close()
        self.process.wait()
