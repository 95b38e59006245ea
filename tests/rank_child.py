"""Run by path, as one of several processes of one compile: does what it is told, and prints JSON.

    RANK=0 WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=… python rank_child.py FOLDER

Each function here with a name that begins with ``do_`` is called with the ranks; what it gives goes
to ``FOLDER/<name>-<rank>.pt``, or the text of the `RankError` that ended it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from awqc.errors import InvariantError, RankError
from awqc.executor.segments import cut
from awqc.machine import ranks as ranks_file
from awqc.machine.ranks import Ranks, all_ranks
from awqc.passes.pipeline import parse_pipeline
from tests.executor.test_segments import decoder
from tests.tiny import calibration

PASSES = (
    "canonicalize,insert-observers{gram=true},calibrate,search-scales,fold-scales,"
    "quantize-weights{rounding=gptq,group-size=16,keep-float=true},tune-scales"
)


def compiled(ranks: Ranks) -> dict[str, Any]:
    """What a tiny decoder becomes, in segments: its output, codes, and scales of sites."""
    program = decoder()
    batches = calibration(program, batches=8)
    parse_pipeline(PASSES).run(program, batches, cut=partial(cut, smallest=1), ranks=ranks)
    return {
        "outputs": program.run(batches[0]),
        "codes": {n: w.codes for n, w in program.findings.quantized.items()},
        "scales": {n: s.scale for n, s in program.findings.scales.items()},
        "errors": {n: e.weight for n, e in program.findings.errors.items()},
    }


def do_compile(ranks: Ranks) -> dict[str, Any]:
    return compiled(ranks)


def do_sums(ranks: Ranks) -> Any:
    mine = torch.tensor([1.0, 5.0]) * (ranks.index + 1)
    return ranks.total(mine.clone()), ranks.largest(mine.clone()), ranks.gather(ranks.index)


def do_each(ranks: Ranks) -> list[tuple[int, int]]:
    def work(items: Sequence[int]) -> Iterator[tuple[int, int]]:
        return ((item, ranks.index) for item in items)

    return list(ranks.each(work, range(5)))


def do_fail(ranks: Ranks) -> None:
    """The work of one rank fails; the other one says so."""

    def work(items: Sequence[int]) -> Iterator[int]:
        for item in items:
            if item == 3:
                raise InvariantError("layer 3 is broken")
            yield item

    list(ranks.each(work, range(6)))


def do_vanish(ranks: Ranks) -> None:
    """The last of all: one rank is gone, and the other does not wait for ever."""
    if ranks.index == 1:
        sys.stdout.flush()
        import os

        os._exit(9)
    ranks.wait()


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    ranks_file.PATIENCE = 60
    with all_ranks() as ranks:
        for name, function in list(globals().items()):
            if name.startswith("do_"):
                try:
                    found = function(ranks)
                except (RankError, InvariantError) as error:
                    found = f"{type(error).__name__}: {error}"
                torch.save(found, folder / f"{name}-{ranks.index}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
