"""The section of docs/verification.md on random inputs, made of the ledgers."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from tests.fuzz.ledger import FOLDER, Ledger
from tests.verification_page import PAGE, write_section

HEADING = "Random inputs"
INTRODUCTION = """Written by `python -m tests.fuzz --graphs N --files N --planted N --kills N`; do
not edit. A run goes on where the last one ended, so that many make a large one; a case is that of
its number."""
TABLE = """| what | cases | done well | to be mended | found and mended | hours of a processor |
|---|---|---|---|---|---|"""

CODE = "exit code "
AIMS = {"graphs": 10_000, "files": 5_000, "planted": 350, "kills": 100}
MEANINGS = {
    "graphs": "random graphs of up to six steps: what torch, onnxruntime and OpenVINO compute of "
    "the compiled graph, at several sizes each",
    "files": "damaged files: no traceback, an exit code of 0, 1 or 2, no control character shown, "
    "and after a failure every file as it was",
    "planted": "files with planted code, a pickle or text that some reader would run, import or "
    "render: nothing of it runs",
    "kills": "killed compiles: no file lost, and nothing left behind after the next start",
}


def write_page(folder: Path = FOLDER, page: Path = PAGE) -> None:
    """Write the section."""
    ledgers = [ledger for kind in MEANINGS if (ledger := Ledger.read(kind, folder)).done]
    rows = [
        f"| {MEANINGS[one.kind]} | {one.done} | {one.done - len(one.finds)} "
        f"| {len(one.open_finds)} | {len(one.mended)} | {one.seconds / 3600:.1f} |"
        for one in ledgers
    ]
    missed = [
        f"{aim - Ledger.read(kind, folder).done} of {aim} {kind}"
        for kind, aim in AIMS.items()
        if Ledger.read(kind, folder).done < aim
    ]
    aims = [f"Not yet run of what is aimed at: {', '.join(missed)}."] if missed else []
    details = [text for one in ledgers if (text := DETAILS[one.kind](one.counts))]
    table = "\n".join([TABLE, *rows])
    write_section(HEADING, "\n\n".join([INTRODUCTION, *aims, table, *details]), page)


def _graphs(counts: Counter[str]) -> str:
    """How many were compared, and why the others were not."""
    refused = {what[9:]: n for what, n in counts.most_common() if what.startswith("refused: ")}
    reasons = ", ".join(f"`{what} …` {n}" for what, n in refused.items())
    return (
        f"Graphs: {counts['compared']} were compared, at {counts['sizes compared']} sizes; "
        f"{counts['refused']} were refused with a reason ({reasons})."
    )


def _files(counts: Counter[str]) -> str:
    """How the commands ended, and how many kinds of files there are."""
    codes = ", ".join(
        f"{what.removeprefix(CODE)}: {n}"
        for what, n in sorted(counts.items())
        if what.startswith(CODE)
    )
    kinds = sum(what.startswith("file: ") for what in counts)
    return f"Files: damaged were {kinds} files of a corpus; exit codes {codes}."


def _planted(counts: Counter[str]) -> str:
    """In what ways code was planted, and in how many kinds of files."""
    ways = {what[5:]: n for what, n in counts.most_common() if what.startswith("way: ")}
    kinds = sum(what.startswith("file: ") for what in counts)
    return (
        f"Planted: {', '.join(f'{way} {n}' for way, n in ways.items())}; in {kinds} kinds of files."
    )


def _kills(counts: Counter[str]) -> str:
    """When the signals came, and what was there afterwards."""
    lines = [f"| {what.replace(': ', ' | ')} | {n} |" for what, n in sorted(counts.items())]
    return "\n".join(["| signal | what is there afterwards | kills |", "|---|---|---|", *lines])


DETAILS = {"graphs": _graphs, "files": _files, "planted": _planted, "kills": _kills}
