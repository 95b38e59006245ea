"""Processes of awqc for tests, forked off one that has imported it: real ones, seconds sooner.

Where the start of Python itself is the point (``-W error``, a closed stream, what is imported),
a test starts Python.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

COMMAND_LINE = "from awqc.cli import main\nmain()"
"""What ``python -m awqc`` runs."""

_SERVER = Path(__file__).with_name("fork_server.py")
_ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Started:
    """A process that runs.

    Attributes:
        pid: its number.
        files: where its standard output and error go.
    """

    pid: int
    files: tuple[Path, Path]
    _answers: IO[str]

    def wait(self) -> subprocess.CompletedProcess[str]:
        """Its exit code and what it printed, when it has ended."""
        code = int(self._answers.readline())
        out, err = (path.read_text() if path.is_file() else "" for path in self.files)
        return subprocess.CompletedProcess("awqc", code, out, err)


class Processes:
    """Starts processes, one at a time."""

    def __init__(self, scratch: Path) -> None:
        self._scratch, self._count = scratch, 0
        self._server: subprocess.Popen[str] | None = None

    def start(
        self,
        code: str,
        arguments: Sequence[str],
        *,
        cwd: Path,
        env: dict[str, str],
        **more: Any,
    ) -> Started:
        """Start ``python -c code arguments``; ``more``: what else `tests/fork_server.py` takes."""
        if self._server is None:
            self._server = subprocess.Popen(
                [sys.executable, str(_SERVER)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                env={**os.environ, "PYTHONPATH": str(_ROOT), "OMP_NUM_THREADS": "1"},
            )  # fmt: skip
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._count += 1
        job: dict[str, Any] = {
            "code": code, "arguments": list(arguments), "cwd": str(cwd), "env": env,
            "stdout": str(self._scratch / f"{self._count}.out"),
            "stderr": str(self._scratch / f"{self._count}.err"),
            "ignore": [], "file_size": None, **more,
        }  # fmt: skip
        self._server.stdin.write(json.dumps(job) + "\n")
        self._server.stdin.flush()
        pid = int(self._server.stdout.readline())
        return Started(pid, (Path(job["stdout"]), Path(job["stderr"])), self._server.stdout)

    def end(self) -> None:
        """End the process that forks."""
        if self._server is not None:
            self._server.communicate()
