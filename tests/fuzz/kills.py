"""Kill real compiles; what was there must be whole, and the next start must leave nothing else.

Each round starts ``awqc compile`` into a folder that holds an earlier result, and ends it by a
signal: SIGKILL in three of four rounds, else SIGTERM, SIGHUP or SIGINT. A driver in place of the
command line tells when the compile is about to publish. The signal comes at a random moment, or
within milliseconds of that word, or before a line of awqc/artifacts that runs between it and the
end: around each rename, or the exchange. After each round the folder must hold the earlier or the
new result (between two renames, on systems without an exchange, from the next start on), and
what the next start looks at must be clean.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from awqc.artifacts.leftovers import clear_leftovers
from awqc.artifacts.manifest import MANIFEST, changed, read_manifest, strangers
from awqc.artifacts.target import prepare_folder
from tests.commands.test_cli import fill
from tests.fuzz.ledger import Look

DRIVER = """
import os, signal, sys
from awqc.artifacts import exchange, publish
from awqc.cli import main
way, name, line = sys.argv.pop(1), sys.argv.pop(1), int(sys.argv.pop(1))
if way == "renames":
    exchange._renameat2 = lambda: None
room, seen = os.path.dirname(publish.__file__), 0
def trace(frame, event, argument):
    global seen
    if not frame.f_code.co_filename.startswith(room):
        return None
    if event == "line":
        seen += 1
        if seen == line:
            os.kill(os.getpid(), getattr(signal, "SIG" + name))
    return trace
seal = publish._seal
def told(folder):
    print("publishing", flush=True)
    seal(folder)
    sys.settrace(trace)
publish._seal = told
try:
    main(sys.argv[1:])
finally:
    sys.settrace(None)
    print("lines", seen, flush=True)
"""
AROUND = 0.04
"""Seconds from the driver's word on in which a publication happens."""

CODES = {"KILL": (-9,), "TERM": (143, -15), "HUP": (143, -1), "INT": (130, -2)}
"""How a process may end: the second is of one that was hit before it could prepare for it."""

MOMENTS = ("any moment", "about to publish", "a line of publishing")
WAYS = ("exchange", "renames")


@dataclass
class Kills:
    """Compiles that are killed.

    Attributes:
        folder: where they work; ``out`` is their target.
        longest: seconds that a compile takes that nobody disturbs.
        lines: of awqc/artifacts that its publication runs, for each of `WAYS`.
    """

    folder: Path
    longest: float = 0.0
    lines: tuple[int, ...] = ()

    def measure(self) -> None:
        """Compile undisturbed, in each way."""
        started = time.monotonic()
        self.lines = tuple(self.finish(way) for way in WAYS)
        self.longest = (time.monotonic() - started) / len(WAYS)

    def kill(self, number: int) -> str:
        """The round of a number; what became of it."""
        draw = random.Random(number)
        name = "KILL" if number % 4 else draw.choice(["TERM", "HUP", "INT"])
        moment, way = draw.choice(MOMENTS), draw.choice(WAYS)
        at_line = moment == MOMENTS[2]
        line = draw.randint(1, self.lines[WAYS.index(way)]) if at_line else 0
        before = (self.folder / "out" / MANIFEST).read_bytes()
        process = self.start(number, way, name, line)
        assert process.stdout is not None
        if not at_line:
            if moment == MOMENTS[1]:
                process.stdout.readline()
            time.sleep(draw.uniform(0, self.longest if moment == MOMENTS[0] else AROUND))
            process.send_signal(getattr(signal, f"SIG{name}"))
        with process:
            _, err = process.communicate(timeout=300)
        code = process.returncode
        assert code in (0, *CODES[name]), (code, err)
        assert "Traceback" not in err or code < 0, err
        if name == "KILL" and way == WAYS[1]:
            self.start_anew()  # Between two renames the earlier result lies aside.
        new = (self.folder / "out" / MANIFEST).read_bytes() != before
        check_whole(self.folder / "out")
        if name != "KILL" and code > 0:
            assert ("out had been written" in err) == new, err
            assert ("nothing was written" in err) != new, err
        else:
            self.start_anew()
        self.check_clean()
        return f"SIG{name} at {moment}: {'the new' if new else 'the earlier'} result"

    def start_anew(self) -> None:
        """What the next start does before anything else: it clears up."""
        prepare_folder(self.folder / "out")
        clear_leftovers(self.folder / "tmp")

    def start(self, number: int, way: str, name: str, line: int) -> subprocess.Popen[str]:
        """A compile; ``number`` makes its result another one than the last."""
        args = ["compile", "model.pt", "--calib", "data.npz", "--formats", "pt2", "--effort",
                "fast", "--seed", str(number), "-o", "out"]  # fmt: skip
        return subprocess.Popen(
            [sys.executable, "-c", DRIVER, way, name, str(line), *args],
            cwd=self.folder,
            env=os.environ
            | {
                "OMP_NUM_THREADS": "1",
                "TMPDIR": str(self.folder / "tmp"),
                "PYTHONPATH": str(Path(__file__).parents[2]),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=let_signals_through,
        )

    def finish(self, way: str) -> int:
        """A compile that nobody disturbs; the lines of awqc/artifacts that publish its result."""
        with self.start(-1, way, "KILL", 0) as process:
            out, err = process.communicate()
        assert process.returncode == 0, err
        self.check_clean()
        return int(out.split()[-1])

    def check_clean(self) -> None:
        """Nothing is there but what was and the result."""
        found = sorted(os.listdir(self.folder))
        assert found == ["data.npz", "model.pt", "out", "tmp"], found
        left = [name for name in os.listdir(self.folder / "tmp") if "awqc" in name]
        assert not left, left


def let_signals_through() -> None:
    """Shells start what runs in the background with interrupts ignored."""
    for name in CODES:
        if name != "KILL":
            signal.signal(getattr(signal, f"SIG{name}"), signal.SIG_DFL)


def check_whole(folder: Path) -> None:
    """The result is one that a compile finished."""
    files = read_manifest(folder)
    assert files is not None
    assert not strangers(folder, files)
    assert not changed(folder, files)
    assert all((folder / name).is_file() for name in files)
    json.loads((folder / "report.json").read_text())


@contextmanager
def looking() -> Iterator[Look]:
    """Looks at the kill of a number."""
    with tempfile.TemporaryDirectory() as place:
        folder = fill(Path(place))
        (folder / "tmp").mkdir()
        kills = Kills(folder)
        kills.measure()
        yield lambda number: [kills.kill(number)]
        kills.finish(WAYS[0])
        check_whole(folder / "out")
