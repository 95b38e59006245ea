"""How much memory may be taken: the least of what the machine, control groups and ulimit leave."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from awqc.machine import room as file
from awqc.machine.room import available, room

GB = 10**9
Write = Callable[[Mapping[str, object]], None]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Makes files of a system."""
    monkeypatch.setattr(file, "PROC", tmp_path / "proc")
    monkeypatch.setattr(file, "CGROUPS", tmp_path / "cgroup")

    def made(content: Mapping[str, object]) -> None:
        for name, text in content.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(f"{text}\n")

    return made


def test_a_system_that_tells_nothing_sets_no_bound(write: Write) -> None:
    write({})
    assert available() == sys.maxsize


def test_the_machine_says_what_is_available(write: Write) -> None:
    write({"proc/meminfo": "MemTotal:  9000 kB\nMemFree:  1 kB\nMemAvailable:   4000 kB"})
    assert room() == file.Room(4096000, "the memory of this machine")


@pytest.mark.parametrize("base", ["cgroup", "cgroup/unified"])
def test_a_group_counts_and_so_do_those_it_is_in(write: Write, base: str) -> None:
    write(
        {
            "proc/meminfo": "MemAvailable: 90000000 kB",
            "proc/self/cgroup": "3:cpu:/x\n0::/a/b",
            f"{base}/a/b/memory.max": "max",
            f"{base}/a/b/memory.current": 3 * GB,
            f"{base}/a/memory.max": 5 * GB,
            f"{base}/a/memory.current": 4 * GB,
            f"{base}/a/memory.stat": f"anon 7\ninactive_file {GB}\nactive_file {GB}\nfile {9 * GB}",
        }
    )
    assert room() == file.Room(3 * GB, "a control group, 5.0 GB in all")


def test_groups_of_the_first_version(write: Write) -> None:
    write(
        {
            "proc/self/cgroup": "4:memory:/job\n3:cpuset:/",
            "cgroup/memory/job/memory.limit_in_bytes": 2 * GB,
            "cgroup/memory/job/memory.usage_in_bytes": 2 * GB + 1,
            "cgroup/memory/memory.limit_in_bytes": 2**63 - 4096,
            "cgroup/memory/memory.usage_in_bytes": 7,
        }
    )
    assert room().free == 0


@pytest.mark.skipif(sys.platform != "linux", reason="VmSize is shown by Linux alone")
def test_a_limit_of_the_process_counts() -> None:
    code = (
        "import resource; from awqc.machine.room import PROC, room, _kilobytes\n"
        "used = _kilobytes(PROC / 'self' / 'status', 'VmSize')\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 10**8,) * 2)\n"
        "found = room(); print(found.free <= 10**8, found.bounded_by)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("True ulimit -v")
