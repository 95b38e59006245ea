"""How much memory this process may still take, and what says so."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")
UNLIMITED = 2**60
"""A group's limit beyond this is none; version 1 shows the largest number of pages."""


@dataclass(frozen=True, order=True)
class Room:
    """Memory that can be taken.

    Attributes:
        free: bytes.
        bounded_by: what says so, in words.
    """

    free: int
    bounded_by: str


def available() -> int:
    """Bytes that can still be taken; a very large number where the system does not tell."""
    return room().free


def held() -> int:
    """Bytes that this process holds and the system cannot drop; 0 where it does not tell."""
    return _kilobytes(PROC / "self" / "status", "RssAnon") or 0


def room() -> Room:
    """The least of what the machine, the control groups and ``ulimit`` leave."""
    return min([Room(sys.maxsize, "nothing"), *_machine(), *_groups(), *_process()])


def _machine() -> Iterator[Room]:
    if (free := _kilobytes(PROC / "meminfo", "MemAvailable")) is not None:
        yield Room(free, "the memory of this machine")


def _groups() -> Iterator[Room]:
    """Each control group with a limit that the process is in, from its own upwards.

    What the file cache holds counts as free: the system drops it first. Sources: the kernel's
    cgroup-v2 and cgroup-v1/memory documents.
    """
    for line in _text(PROC / "self" / "cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        for version in VERSIONS:
            if version.controller in controllers.split(","):
                for base in version.bases:
                    yield from version.rooms(CGROUPS / base, path.lstrip("/"))


@dataclass(frozen=True)
class _Version:
    """How one version of control groups shows memory.

    Attributes:
        controller: as a process's list of groups names it.
        bases: folders below `CGROUPS` where the groups may be.
        limit: name of a file, and so is ``used``.
        cached: beginning of the lines of ``memory.stat`` on files in memory.
    """

    controller: str
    bases: tuple[str, ...]
    limit: str
    used: str
    cached: str

    def rooms(self, base: Path, path: str) -> Iterator[Room]:
        """Of the group ``path``, and of each that it is in."""
        for folder in (base / path, *(base / path).parents):
            if not folder.is_relative_to(base):
                return
            limit, used = _number(folder / self.limit), _number(folder / self.used)
            if limit is None or used is None or limit >= UNLIMITED:
                continue
            lines = re.findall(rf"^{self.cached} (\d+)", _text(folder / "memory.stat"), re.M)
            free = limit - used + sum(map(int, lines))
            yield Room(max(0, free), f"a control group, {_gigabytes(limit)} in all")


VERSIONS = (
    _Version("", ("", "unified"), "memory.max", "memory.current", "(?:active_file|inactive_file)"),
    _Version(
        "memory",
        ("memory",),
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        "(?:total_active_file|total_inactive_file)",
    ),
)


def _process() -> Iterator[Room]:
    """What ``ulimit -v`` leaves; mapped files count against it."""
    if sys.platform == "win32":
        return
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    used = _kilobytes(PROC / "self" / "status", "VmSize")
    if limit != resource.RLIM_INFINITY and used is not None:
        yield Room(max(0, limit - used), f"ulimit -v, {_gigabytes(limit)} in all")


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB"


def _kilobytes(path: Path, key: str) -> int | None:
    """What a line ``key:  N kB`` of a file says, in bytes."""
    found = re.search(rf"^{key}:\s+(\d+) kB", _text(path), re.M)
    return None if found is None else int(found[1]) * 1024


def _number(path: Path) -> int | None:
    """The number that is all of a file; "max" is none."""
    text = _text(path).strip()
    return int(text) if text.isdigit() else None


def _text(path: Path) -> str:
    """Content of a file of the system; empty where there is none, or it may not be read."""
    try:
        return path.read_text()
    except OSError:
        return ""
