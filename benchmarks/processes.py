"""What processes take: memory that the system cannot drop, and the processor's time. Linux only."""

from __future__ import annotations

import os
from pathlib import Path


def processor_time() -> float:
    """Seconds of this process, and of those that it started."""
    ticks = 0
    for pid in started_by(os.getpid()):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    spent = os.times()
    ended = spent.children_user + spent.children_system
    return spent.user + spent.system + ended + ticks / os.sysconf("SC_CLK_TCK")


def anonymous(pid: int) -> int:
    """Bytes of ``RssAnon`` of a process; 0 where it is gone."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    lines = [line for line in text.splitlines() if line.startswith("RssAnon")]
    return int(lines[0].split()[1]) * 1024 if lines else 0


def started_by(pid: int) -> list[int]:
    """Processes that ``pid`` started, and those that these started."""
    found: list[int] = []
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            own = [int(each) for each in children.read_text().split()]
        except OSError:
            continue
        found += own + [each for child in own for each in started_by(child)]
    return found
