"""Two folders trade places, and where the kernel refuses, publishing falls back on renames."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from awqc.artifacts.exchange import exchange

ROOT = Path(__file__).parents[2]
REFUSING = """
import ctypes, struct, sys
from pathlib import Path

CALL, CODE = {"x86_64": 316, "aarch64": 276}[sys.argv[2]], int(sys.argv[3])
ALLOW, ERRNO = 0x7FFF0000, 0x00050000
LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06
rules = b"".join(
    struct.pack("HBBI", *rule)
    for rule in ((LOAD, 0, 0, 0), (EQUAL, 0, 1, CALL), (RETURN, 0, 0, ERRNO | CODE),
                 (RETURN, 0, 0, ALLOW))
)
buffer = ctypes.create_string_buffer(rules)
program = struct.pack("HxxxxxxP", 4, ctypes.addressof(buffer))
libc = ctypes.CDLL(None, use_errno=True)
libc.prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
no_new_privileges, seccomp, filtered = 38, 22, 2
assert libc.prctl(no_new_privileges, 1, 0, 0, 0) == 0
held = ctypes.create_string_buffer(program)
assert libc.prctl(seccomp, filtered, ctypes.addressof(held), 0, 0) == 0

from awqc.artifacts import exchange, publish
folder = Path(sys.argv[1])
for text in ("old", "new"):
    with publish.staging(folder / "out") as made:
        (made / "x").write_text(text)
(folder / "a").mkdir()
(folder / "b").mkdir()
assert not exchange.exchange(folder / "a", folder / "b")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a call of Linux")
def test_two_folders_trade_places(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text("")
    assert exchange(tmp_path / "a", tmp_path / "b")
    assert os.listdir(tmp_path / "a") == ["b"]
    assert os.listdir(tmp_path / "b") == ["a"]


def test_what_cannot_be_exchanged_stays(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    assert not exchange(tmp_path / "a", tmp_path / "b")
    assert not exchange(tmp_path / "a", tmp_path / "a" / "inner")
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"),
    reason="a filter of Linux, with the numbers of these machines' calls",
)
@pytest.mark.parametrize("code", ["EINVAL", "ENOSYS", "EPERM"])
def test_a_system_that_refuses_the_exchange_gets_renames(tmp_path: Path, code: str) -> None:
    """The kernel itself answers as old ones do, and file systems that have no exchange."""
    import errno

    done = subprocess.run(
        [sys.executable, "-c", REFUSING, tmp_path, platform.machine(), str(getattr(errno, code))],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "x").read_text() == "new"
    assert sorted(os.listdir(tmp_path)) == ["a", "b", "out"]
