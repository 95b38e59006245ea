"""Look for faults with random graphs, damaged files, planted code and killed compiles.

    python -m tests.fuzz --minutes 60 [--seed N] [--only graphs|files|planted|kills]
    python -m tests.fuzz --graphs 10000 --files 5000 --planted 350 --kills 100

The first looks at new cases for a time and prints what it finds, graphs shrunk; it ends with 1 if
there was something. The second looks at so many cases of each kind in all, those with the numbers
from 0 on: it goes on where an earlier run ended (``tests/fuzz/counted/``), looks at the finds of
earlier runs again first, and writes its section of docs/verification.md. What is found belongs
into ``tests/fuzz/finds.py``.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager

import click
import torch

from tests.fuzz import files, graphs, kills, planted
from tests.fuzz.ledger import Ledger, Look
from tests.fuzz.page import write_page

KINDS: dict[str, Callable[[], AbstractContextManager[Look]]] = {
    "graphs": graphs.looking,
    "files": files.looking,
    "planted": planted.looking,
    "kills": kills.looking,
}

NUMBERS = 10**6
"""Cases of one seed."""


def search(kind: str, seed: int, seconds: float) -> int:
    """Look at cases for some seconds; how many finds there were."""
    ledger = Ledger(kind, done=NUMBERS * (seed + 1))
    with KINDS[kind]() as look:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            ledger.look(look, click.echo)
    for what, count in sorted(ledger.counts.items()):
        click.echo(f"{count:7d} {kind}: {what}")
    click.echo(f"{len(ledger.finds):7d} {kind}: finds")
    return len(ledger.finds)


def count(kind: str, until: int) -> int:
    """Look at the cases of a kind up to a number; how many finds are not mended."""
    ledger = Ledger.read(kind)
    with KINDS[kind]() as look:
        ledger.run(look, until, click.echo)
    return len(ledger.open_finds)


@click.command()
@click.option("--minutes", type=float, help="For all together; cases that nobody has seen.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of these.")
@click.option("--only", type=click.Choice(list(KINDS)), help="One kind of these.")
@click.option("--graphs", type=int, help="So many random graphs in all.")
@click.option("--files", type=int, help="So many damaged files in all.")
@click.option("--planted", type=int, help="So many files with planted code in all.")
@click.option("--kills", type=int, help="So many killed compiles in all.")
def main(minutes: float | None, seed: int, only: str | None, **asked: int | None) -> None:
    """Look for faults with random graphs, damaged files, planted code and killed compiles."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    counted = {kind: until for kind, until in asked.items() if until is not None}
    chosen = [only] if only else list(KINDS)
    if counted and minutes is None:
        finds = sum(count(kind, until) for kind, until in counted.items())
        write_page()
    else:
        seconds = 60 * (5.0 if minutes is None else minutes) / len(chosen)
        finds = sum(search(kind, seed, seconds) for kind in chosen)
    raise SystemExit(bool(finds))


if __name__ == "__main__":
    main()
