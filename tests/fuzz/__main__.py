"""Look for faults: ``python -m tests.fuzz --minutes 60 [--seed N] [--only graphs|files]``.

Prints each find as the case that repeats it, shrunk where that can be done, and a summary; ends
with 1 if there was one. What is found belongs into ``tests/fuzz/finds.py``.
"""

from __future__ import annotations

import itertools
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import click
import torch
from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.fuzz import files, graphs

ROUND = 20
"""Graphs between two looks at the clock."""


def look_at_graphs(start: int, seconds: float, tally: Counter[str]) -> list[str]:
    """Random graphs; each find is shrunk by hypothesis."""
    finds: list[str] = []
    until = time.monotonic() + seconds
    for number in itertools.count(start):
        if time.monotonic() > until:
            return finds

        @seed(number)
        @settings(
            max_examples=ROUND, deadline=None, database=None, print_blob=False,
            phases=(Phase.generate, Phase.shrink), suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(graphs.graphs())
        def search(graph: graphs.Graph) -> None:
            tally["graphs"] += 1
            outcome = graphs.check(graph)
            tally["graphs, sizes compared"] += outcome.sizes
            if outcome.refused is not None:
                tally["graphs refused: " + " ".join(outcome.refused.split()[:4])] += 1

        try:
            search()
        except Exception as error:  # noqa: BLE001 - every kind of failure is a find
            finds.append(f"{type(error).__name__}: {error}")
            click.echo(finds[-1])
    return finds


def look_at_files(start: int, seconds: float, tally: Counter[str]) -> list[str]:
    """Damaged files."""
    finds = []
    with tempfile.TemporaryDirectory() as name:
        (corpus := Path(name) / "corpus").mkdir()
        files.make_corpus(corpus)
        until = time.monotonic() + seconds
        for case in files.cases(start):
            if time.monotonic() > until:
                break
            tally["files"] += 1
            try:
                tally[f"files, exit code {files.check(case, corpus, Path(name) / 'case')}"] += 1
            except Exception as error:  # noqa: BLE001 - every kind of failure is a find
                finds.append(f"{case}: {type(error).__name__}: {error}")
                click.echo(finds[-1][:2000])
    return finds


LOOKS: dict[str, Callable[[int, float, Counter[str]], list[str]]] = {
    "graphs": look_at_graphs,
    "files": look_at_files,
}


@click.command()
@click.option("--minutes", type=float, default=5.0, show_default=True, help="For all together.")
@click.option("--seed", "start", type=int, default=0, show_default=True)
@click.option("--only", type=click.Choice(list(LOOKS)), help="One of the two.")
def main(minutes: float, start: int, only: str | None) -> None:
    """Look for faults with random graphs and damaged files."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    chosen = [only] if only else list(LOOKS)
    tally: Counter[str] = Counter()
    finds = []
    for name in chosen:
        finds += LOOKS[name](start, 60 * minutes / len(chosen), tally)
    for what, count in sorted(tally.items()):
        click.echo(f"{count:7d} {what}")
    click.echo(f"{len(finds):7d} finds")
    raise SystemExit(bool(finds))


if __name__ == "__main__":
    main()
