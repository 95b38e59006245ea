"""Whatever line a process ends at, what was there is whole, and the next start clears up."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "kill_everywhere.py"


def kill(way: str, how: str, step: int) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", SCRIPT, way, how, str(step)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "publish_folder" in done.stdout
    assert "grow_folder" in done.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="needs fork and /proc")
@pytest.mark.parametrize("how", ["kill", "interrupt"])
@pytest.mark.parametrize("way", ["exchange", "renames"])
def test_a_run_that_ends_at_some_lines(way: str, how: str) -> None:
    kill(way, how, 17)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["kill", "interrupt"])
@pytest.mark.parametrize("way", ["exchange", "renames"])
def test_a_run_that_ends_at_any_line(way: str, how: str) -> None:
    kill(way, how, 1)
