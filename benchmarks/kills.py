"""A compile that is killed again and again gives the bytes of one that was let alone.

    python -m benchmarks.kills                 # writes benchmarks/results/kills.json
    python -m benchmarks.kills --kills 20 --effort default --hidden 1024

A Llama with random weights is saved as a bfloat16 folder and compiled, once undisturbed. Then the
same command is run with other output, and killed (SIGKILL) at a random moment, until it was killed
so often; a last run goes on to the end. A moment is drawn from the time that the undisturbed
compile took from its first to its last segment, or now and then from all of it. The results hold
for each run what it said of where it goes on, and of the end whether each file is the same; of the
reports, times are left out.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.scale import save_model

RESULTS = Path(__file__).parent / "results" / "kills.json"
COMMAND = (
    "import sys; from awqc.executor import segments; segments.SMALLEST = int(sys.argv.pop(1)); "
    "from awqc.cli import main; main()"
)
"""``awqc`` with segments of another size: a small model has several then."""

GOES_ON = re.compile(r"going on after segment (\d+) of (\d+)")
ANYWHERE = 0.2
"""Share of the kills that may come before the first segment and after the last."""

PAUSE = 0.02


def start(folder: Path, calib: Path, out: Path, given: argparse.Namespace) -> subprocess.Popen[str]:
    """``awqc compile``, in a process of its own."""
    options = ["--calib", str(calib), "--effort", given.effort, "--formats", given.formats]
    call = [str(given.smallest), "compile", str(folder), "-o", str(out), *options]
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, *call],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def undisturbed(process: subprocess.Popen[str], work: Path) -> tuple[float, float, float]:
    """Seconds from the start to the first finished segment, the last one, and the end."""
    began, first, last = time.monotonic(), 0.0, 0.0
    seen = 0
    while process.poll() is None:
        count = len(list(work.glob("segment-*")))
        if count > seen:
            last = time.monotonic() - began
            first = first or last
            seen = count
        time.sleep(PAUSE)
    if process.returncode:
        raise SystemExit(f"the compile ended with code {process.returncode}: {_said(process)}")
    return first, last, time.monotonic() - began


def killed(process: subprocess.Popen[str], after: float, work: Path) -> dict[str, Any]:
    """Kill ``process`` after some seconds; what it had said, and what it leaves."""
    try:
        process.wait(after)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
    said = GOES_ON.search(_said(process))
    return {
        "seconds": round(after, 2),
        "killed": process.returncode == -signal.SIGKILL,
        "goes_on_after": int(said[1]) if said else 0,
        "finished": len(list(work.glob("segment-*"))),
    }


def _said(process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None
    return process.communicate()[1]


def content(folder: Path) -> dict[str, str]:
    """A digest of each file; of what holds times, without them."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if not path.is_file() or name in ("awqc-files.json", "report.html"):
            continue  # made of the others
        data = path.read_bytes()
        if name == "report.json":
            data = json.dumps({**json.loads(data), "timing": None}).encode()
        found[name] = hashlib.sha256(data).hexdigest()
    return found


def measure(scratch: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Compile undisturbed, and killed so often; what came of it."""
    import numpy as np

    folder, calib = scratch / "model", scratch / "ids.npz"
    save_model(folder, given.hidden, given.layers, given.vocabulary)
    shape = (given.samples, given.tokens)
    ids = np.random.default_rng(0).integers(0, given.vocabulary, shape)
    np.savez(calib, input_ids=ids)
    first, last, end = undisturbed(
        start(folder, calib, scratch / "plain", given), scratch / ".plain.awqc-work"
    )
    work, draw = scratch / ".out.awqc-work", random.Random(given.seed)
    runs = []
    while sum(run["killed"] for run in runs) < given.kills:
        anywhere = draw.random() < ANYWHERE
        left = (last - first) * 2 / given.kills  # so that several kills come between two segments
        after = draw.uniform(0, end) if anywhere else first + draw.uniform(-left, left)
        runs.append(killed(start(folder, calib, scratch / "out", given), max(0, after), work))
        print(runs[-1], flush=True)
        if not runs[-1]["killed"]:
            break
    process = start(folder, calib, scratch / "out", given)
    said = GOES_ON.search(_said(process))
    if process.returncode:
        raise SystemExit(f"the last run ended with code {process.returncode}")
    plain, other = content(scratch / "plain"), content(scratch / "out")
    return {
        "seconds_undisturbed": round(end, 1),
        "seconds_to_first_and_last_segment": [round(first, 1), round(last, 1)],
        "runs": runs,
        "last_run_goes_on_after": [int(said[1]), int(said[2])] if said else None,
        "files": {name: "same" if other.get(name) == plain[name] else "other" for name in plain},
        "left_behind": sorted(path.name for path in scratch.iterdir() if "awqc-work" in path.name),
    }


def main() -> None:
    """Measure, print, and write the results; exit with 1 where a byte differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--effort", default="fast")
    parser.add_argument("--formats", default="onnx,ort,pt2")
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--vocabulary", type=int, default=8192)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--smallest", type=int, default=2**20, help="weights of a segment")
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
