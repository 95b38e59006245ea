"""Kill real compiles at random moments; what was there must be whole, and nothing must stay.

    python tests/fuzz/kills.py [kills] [signal] [seed]

Each round starts ``awqc compile`` into a folder that holds an earlier result, and kills it with
the signal (KILL, TERM, HUP or INT) after a random time. A driver in place of the command line
tells when the compile is about to publish: half of the kills come within milliseconds of it.
After each round the folder must hold the earlier or the new result; after a last compile,
nothing else may be there. Prints one line a round and a summary.
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
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from awqc.artifacts.manifest import MANIFEST, changed, read_manifest, strangers
from tests.commands.test_cli import fill

DRIVER = """
import sys
from awqc.artifacts import publish
from awqc.cli import main
seal = publish._seal
def told(folder):
    print("publishing", flush=True)
    seal(folder)
publish._seal = told
main(sys.argv[1:])
"""
AROUND = 0.04
"""Seconds from the driver's word on in which a publication happens."""

CODES = {"KILL": (-9,), "TERM": (143, -15), "HUP": (143, -1), "INT": (130, -2)}
"""How a process may end: the second is of one that was hit before it could prepare for it."""


@dataclass
class Round:
    """One compile that is killed.

    Attributes:
        folder: where it works; ``out`` is its target.
        name: of the signal.
        random: when it comes.
        outcomes: what was there afterwards, over all rounds.
    """

    folder: Path
    name: str
    random: random.Random
    outcomes: Counter[str] = field(default_factory=Counter)

    def run(self, index: int, longest: float) -> None:
        """Start, kill, look."""
        before = (self.folder / "out" / MANIFEST).read_bytes()
        process = self.start(index)
        if self.random.random() < 0.5:
            assert process.stdout is not None
            process.stdout.readline()
            delay = self.random.uniform(0, AROUND)
        else:
            delay = self.random.uniform(0, longest)
        time.sleep(delay)
        process.send_signal(getattr(signal, f"SIG{self.name}"))
        with process:
            _, err = process.communicate(timeout=120)
        code = process.returncode
        assert code in (0, *CODES[self.name]), (code, err)
        assert "Traceback" not in err or code < 0, err
        new = (self.folder / "out" / MANIFEST).read_bytes() != before
        outcome = f"{'new' if new else 'old'}, exit {code}"
        check_whole(self.folder / "out")
        if self.name != "KILL" and code > 0:
            assert ("out had been written" in err) == new, err
            assert ("nothing was written" in err) != new, err
            self.check_clean()
        self.outcomes[outcome] += 1

    def start(self, index: int) -> subprocess.Popen[str]:
        """A compile; ``index`` makes its result another one than the last."""
        args = ["compile", "model.pt", "--calib", "data.npz", "--formats", "pt2", "--effort",
                "fast", "--bits", "48"[index % 2], "-o", "out"]  # fmt: skip
        return subprocess.Popen(
            [sys.executable, "-c", DRIVER, *args],
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

    def finish(self) -> None:
        """A compile that nobody disturbs."""
        with self.start(0) as process:
            _, err = process.communicate()
        assert process.returncode == 0, err

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


def kill(count: int, name: str, seed: int) -> Counter[str]:
    """``count`` rounds in a folder of their own; how they ended."""
    with tempfile.TemporaryDirectory() as place:
        folder = fill(Path(place))
        (folder / "tmp").mkdir()
        rounds = Round(folder, name, random.Random(seed))
        started = time.monotonic()
        rounds.finish()
        longest = time.monotonic() - started
        for index in range(1, count + 1):
            rounds.run(index, longest)
        rounds.finish()
        check_whole(folder / "out")
        rounds.check_clean()
    return rounds.outcomes


if __name__ == "__main__":
    given = sys.argv[1:]
    counts = kill(
        int(given[0]) if given else 100,
        given[1] if len(given) > 1 else "KILL",
        int(given[2]) if len(given) > 2 else 0,
    )
    print(dict(sorted(counts.items())))  # noqa: T201  a script: this is its result
