"""Publish again and again, killed or interrupted at each line of awqc/artifacts in turn.

    python tests/artifacts/kill_everywhere.py exchange|renames kill|interrupt [step]

Each run is a forked process that ends itself when the n-th line of awqc/artifacts is about to
run. After it the folder must be the old one or the new one, whole, and the next start must leave
nothing else behind. Prints what became of the runs; a broken promise is an AssertionError.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

from awqc.artifacts import claims, exchange, growing, target
from awqc.artifacts.manifest import MANIFEST
from awqc.artifacts.publish import staging, staging_file
from awqc.artifacts.record import recording, said

ROOM = str(Path(target.__file__).parent)
OLD = {"model.onnx": "old", "ort/data": "old too"}
NEW = {"model.onnx": "new", "report.json": "new too", "awq/config.json": "{}"}
REACHED, UNREACHED = 30, 0


def main(way: str, how: str, step: int) -> None:
    """Kill at line 1, 1 + ``step``, … until a run comes to its end."""
    if way == "renames":
        exchange._renameat2 = lambda: None  # type: ignore[assignment]  # as where the system has no such call
    home = "/dev/shm" if os.access("/dev/shm", os.W_OK) else tempfile.gettempdir()
    for task in (publish_folder, publish_file, grow_folder):
        outcomes: Counter[str] = Counter()
        line, ended = 1, False
        while not ended:
            with tempfile.TemporaryDirectory(dir=home) as folder:
                outcome, ended = one_run(Path(folder), task, how, line)
            outcomes[outcome] += 1
            line += step
        print(task.__name__, way, how, dict(sorted(outcomes.items())), flush=True)  # noqa: T201  a script: this is its result
        assert outcomes["old"] > 0, outcomes
        assert outcomes["new"] > 0, outcomes


def one_run(folder: Path, task: Any, how: str, line: int) -> tuple[str, bool]:
    """What is there after a run that ends at ``line``; and whether it ended by itself."""
    (folder / "tmp").mkdir()
    tempfile.tempdir = str(folder / "tmp")
    put(folder / "out", OLD)
    (folder / "file").write_text("old")
    child = os.fork()
    if child == 0:
        os._exit(run_until(line, task, folder, how))
    status = os.waitpid(child, 0)[1]
    if how == "kill" and os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
    else:
        assert os.WEXITSTATUS(status) in (REACHED, UNREACHED), f"line {line}: status {status}"
    target.prepare_folder(folder / "out")  # The next start.
    found = {path.name for path in folder.iterdir()} - {"dumps"}
    assert found == {"out", "file", "tmp"}, f"line {line}: left behind {found}"
    assert not list((folder / "tmp").iterdir()), f"line {line}"
    ended = os.WIFEXITED(status) and os.WEXITSTATUS(status) == UNREACHED
    return what_is_there(folder, task), ended


def run_until(line: int, task: Any, folder: Path, how: str) -> int:
    """In the child: run ``task``; the exit code."""
    seen = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal seen
        if not frame.f_code.co_filename.startswith(ROOM):
            return None
        if event == "line" and (seen := seen + 1) == line:
            if how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise KeyboardInterrupt
        return trace

    with recording() as record:
        sys.settrace(trace)
        try:
            task(folder)
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(None)
        claims.release_all()  # As at the end of each process that is not killed.
        left = [path for path in folder.rglob("*awqc-*") if path.name != MANIFEST]
        assert not left, f"line {line}: left behind {left}"
        done = what_is_there(folder, task) == "new"
        told = said(record) != "nothing was written"
        assert told == done, f"line {line}: {said(record)}, but {done}"
    return REACHED if seen >= line else UNREACHED


def publish_folder(folder: Path) -> None:
    """Replace the folder ``out``."""
    with staging(folder / "out") as made:
        put_files(made, NEW)


def publish_file(folder: Path) -> None:
    """Replace the file ``file``."""
    with staging_file(folder / "file") as made:
        made.write_text("new")


def grow_folder(folder: Path) -> None:
    """Fill the folder ``dumps``."""
    dumps = growing.GrowingFolder(folder / "dumps", (), "--dump-dir")
    for name, text in NEW.items():
        dumps.add(name.replace("/", "-"), text)


def what_is_there(folder: Path, task: Any) -> str:
    """``old`` or ``new``, and nothing else."""
    if task is publish_file:
        return (folder / "file").read_text()
    if task is grow_folder:
        # A folder that grows is there from its first file on; the next run takes it over.
        there = (folder / "dumps").is_dir() and any((folder / "dumps").iterdir())
        if os.getpid() == PARENT:
            growing.GrowingFolder(folder / "dumps", (), "--dump-dir").add("0", "again")
            assert {path.name for path in (folder / "dumps").iterdir()} == {"0", MANIFEST}
        return "new" if there else "old"
    found = {
        path.relative_to(folder / "out").as_posix(): path.read_text()
        for path in (folder / "out").rglob("*")
        if path.is_file()
    }
    assert found.pop(MANIFEST)
    assert found in (OLD, NEW), found
    return "old" if found == OLD else "new"


def put(folder: Path, files: dict[str, str]) -> None:
    """A result of an earlier run."""
    with staging(folder) as made:
        put_files(made, files)


def put_files(folder: Path, files: dict[str, str]) -> None:
    """Write ``files``, by path, into ``folder``."""
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)


PARENT = os.getpid()

if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 1)
