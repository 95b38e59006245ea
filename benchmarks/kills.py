"""A compile that is killed again and again gives the bytes of one that was let alone.

    python -m benchmarks.kills                 # writes benchmarks/results/kills.json
    python -m benchmarks.kills --kills 20 --effort default --hidden 1024

A Llama with random weights is saved as a bfloat16 folder and compiled, once undisturbed. Then the
same command is run with another output, and killed (SIGKILL) at a random moment, until it was
killed so often; a last run goes on to the end. Most moments are drawn from the time that about
two segments take, counted from where a run begins or goes on with segments; some from the whole
time. The results hold for each run where it went on and how much was finished when it was killed,
and of the end whether each file is the same; of the reports, times are left out.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import random
import re
import signal
import tempfile
import time
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from benchmarks.scale import save_model

RESULTS = Path(__file__).parent / "results" / "kills.json"
GOES_ON = re.compile(r"going on after segment (\d+) of (\d+)")
ANYWHERE = 0.2
"""Share of the kills that may come at any moment: while the model is read, or at the end."""

PAUSE = 0.02


class Awqc:
    """``awqc compile`` in a process of its own, forked off this one, which has imported it.

    Args:
        scratch: where the model and its data are; what it prints goes there too.
        name: of the output folder.
        given: options of this script.
    """

    def __init__(self, scratch: Path, name: str, given: argparse.Namespace) -> None:
        self.work, self._printed = scratch / f".{name}.awqc-work", scratch / "printed"
        self._new, self._kept = not (self.work / "compile.json").exists(), self.finished()
        options = ["--effort", given.effort, "--formats", given.formats]
        data = ["--calib", str(scratch / "ids.npz"), "-o", str(scratch / name)]
        call = ["compile", str(scratch / "model"), *data, *options]
        self.began = time.monotonic()
        self.code: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            self._run(call, given.smallest)

    def _run(self, call: list[str], smallest: int) -> NoReturn:
        """What the process does; segments are small, so that a small model has several."""
        from awqc import cli
        from awqc.executor import segments

        printed = os.open(self._printed, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(printed, 1)
        os.dup2(printed, 2)
        segments.SMALLEST = smallest
        code = 1
        try:
            code = cli.run(call)
        finally:
            os._exit(code)

    def goes_on(self) -> re.Match[str] | None:
        """What it said of where it goes on."""
        return GOES_ON.search(self._printed.read_text())

    def has_begun(self) -> bool:
        """Whether it has begun with segments, or gone on."""
        begins = self._new and (self.work / "compile.json").exists()
        return begins or bool(self.goes_on()) or self.finished() > self._kept

    def finished(self) -> int:
        """How many segments are kept."""
        return len(list(self.work.glob("segment-*")))

    def runs(self, until: float = math.inf) -> bool:
        """Whether it has not ended, and the time is not yet ``until``, after a short while."""
        time.sleep(PAUSE)
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if pid else None
        return self.code is None and time.monotonic() < until

    def kill(self) -> None:
        """Let the system end it, if it has not ended."""
        if self.code is None:
            os.kill(self.pid, signal.SIGKILL)
            self.code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def check(self) -> None:
        """Wait for its end; stop where it failed."""
        while self.runs():
            pass
        if self.code:
            raise SystemExit(f"ended with {self.code}: {self._printed.read_text()}")


def undisturbed(awqc: Awqc) -> tuple[float, float]:
    """Seconds that a segment takes, and seconds of all."""
    times = [0.0]
    while awqc.runs():
        if awqc.finished() >= len(times):
            times.append(time.monotonic() - awqc.began)
    awqc.check()
    return (times[-1] - times[1]) / (len(times) - 2), time.monotonic() - awqc.began


def kill(awqc: Awqc, begun: bool, after: float) -> dict[str, Any]:
    """Kill it after some seconds, where ``begun`` from when it begins with segments."""
    while begun and awqc.runs() and not awqc.has_begun():
        pass
    until = time.monotonic() + after
    while awqc.runs(until):
        pass
    awqc.kill()
    said = awqc.goes_on()
    return {
        "seconds": round(time.monotonic() - awqc.began, 2),
        "killed": awqc.code == -signal.SIGKILL,
        "went_on_after": int(said[1]) if said else 0,
        "finished": awqc.finished(),
    }


def content(folder: Path) -> dict[str, str]:
    """A digest of each file; of what holds times, without them."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if not path.is_file() or path.name in ("awqc-files.json", "report.html"):
            continue  # made of the others
        data = path.read_bytes()
        if path.name == "report.json":
            data = json.dumps(json.loads(data, object_hook=_timeless)).encode()
        found[name] = hashlib.sha256(data).hexdigest()
    return found


def _timeless(found: dict[str, Any]) -> dict[str, Any]:
    """A part of a report, of a model or of one of its parts, without times."""
    return {name: value for name, value in found.items() if name != "timing_s"}


def measure(scratch: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Compile undisturbed, and killed so often; what came of it."""
    import numpy as np

    import_module("awqc.commands.compile")
    import_module("awqc.compiler")
    save_model(scratch / "model", given.hidden, given.layers, given.vocabulary)
    shape = (given.samples, given.tokens)
    ids = np.random.default_rng(0).integers(0, given.vocabulary, shape)
    np.savez(scratch / "ids.npz", input_ids=ids)
    segment, end = undisturbed(Awqc(scratch, "plain", given))
    draw = random.Random(given.seed)
    runs: list[dict[str, Any]] = []
    stop = time.monotonic() + 60 * given.minutes
    while len(runs) < given.kills and time.monotonic() < stop and (not runs or runs[-1]["killed"]):
        begun = draw.random() >= ANYWHERE
        after = draw.uniform(0, 2 * segment if begun else end)
        runs.append(kill(Awqc(scratch, "out", given), begun, after))
        print(runs[-1], flush=True)
    last = Awqc(scratch, "out", given)
    last.check()
    said, plain, out = last.goes_on(), content(scratch / "plain"), content(scratch / "out")
    return {
        "seconds": round(end, 1),
        "seconds_a_segment": round(segment, 2),
        "runs": runs,
        "kills": sum(run["killed"] for run in runs),
        "last_run_went_on_after": [int(said[1]), int(said[2])] if said else None,
        "files": {name: "same" if out.get(name) == plain[name] else "other" for name in plain},
        "left_behind": sorted(path.name for path in scratch.iterdir() if "awqc-work" in path.name),
    }


def main() -> None:
    """Measure, print, and write the results; exit with 1 where a byte differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=120, help="after which no more are killed")
    parser.add_argument("--effort", default="fast")
    parser.add_argument("--formats", default="onnx,ort,pt2")
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--vocabulary", type=int, default=8192)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--smallest", type=int, default=2**19, help="weights of a segment")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        found = measure(Path(scratch), given)
    options = {name: value for name, value in vars(given).items() if name != "out"}
    given.out.write_text(json.dumps({"options": options, **found}, indent=2) + "\n")
    print(json.dumps(found, indent=2))
    if "other" in found["files"].values() or found["left_behind"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
