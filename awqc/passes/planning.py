"""What a compile will need against what there is, before it begins; what keeps it within that."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from awqc.channels.analysis import find_sites
from awqc.errors import Speller, in_python, spelled, worded
from awqc.executor.run import Bounds
from awqc.executor.segments import cut, usual_size
from awqc.findings import Decisions
from awqc.machine.room import Room, held, room
from awqc.numerics.request import QuantizationSpec
from awqc.passes.canonicalize import Canonicalize
from awqc.passes.forecast import Forecast, forecast
from awqc.program import Batch, Program
from awqc.weights.decisions import decide

TOLD = 2**27
"""Weights from which on a compile begins with what it will need: smaller ones fit anywhere."""
PASSES, TUNING, WEIGHT_SECONDS = 1.65, 0.7, {False: 7e-7, True: 2.3e-6}
"""Time that a compile takes: in runs over the calibration data, for the one that calibrates, with
its statistics; in runs that tuning takes besides; and in seconds of one core for each weight, which
is captured, searched, rounded (with compensation or not), written, opened and compared. Measured
by `benchmarks/scale.py` on SmolLM2-135M, 64 x 512 tokens, at the default effort: 271, 116 and 306
seconds of one core where a run takes 166; without compensation it is an estimate."""
SMALLER = (2**21, 2**19)
"""Elements of weights that segments have at least where memory is too little for the usual ones;
one is for as many segments as there are places to cut."""
PROBE = 768
"""Rows and columns of the product that is timed."""


@dataclass(frozen=True)
class Plan:
    """A compile that fits, or the reason why it does not.

    Attributes:
        forecast: what it needs.
        bounds: what it keeps in memory of what could go to files.
        smallest: elements of weights that each segment has at least.
        limit: memory that it may take in all, and what says so.
        seconds: that it takes, at the speed of this machine just now.
    """

    forecast: Forecast
    bounds: Bounds
    smallest: int
    limit: Room
    seconds: float

    @property
    def fits(self) -> bool:
        """Whether the memory is enough."""
        return self.forecast.peak(self.bounds) <= self.limit.free

    def told(self) -> str:
        """What it needs, or what is lacking, for people."""
        return str(self) if self.fits else self.shortage()

    def __str__(self) -> str:
        """For people, in one sentence."""
        found, sizes = self.forecast, self.forecast.segments
        return (
            f"{_count(found.weights)} weights in {_some(len(sizes), 'segment')} (the largest has "
            f"{_count(max(sizes))}), {_some(found.batches, 'calibration batch', 'es')} of "
            f"{found.rows // max(1, found.batches)} rows; estimated: "
            f"{gigabytes(found.peak(self.bounds))} of memory, "
            f"{gigabytes(found.disk(self.bounds))} of disk, {minutes(self.seconds)} at the speed "
            "of this machine just now"
        )

    def as_dict(self, speller: Speller = in_python) -> dict[str, Any]:
        """Plain values for JSON, in bytes and seconds; ``speller`` words names of options."""
        return {
            **asdict(self.forecast),
            "peak": self.forecast.peak(self.bounds),
            "disk": self.forecast.disk(self.bounds),
            "smallest_segment": self.smallest,
            "limit": self.limit.free,
            "bounded_by": worded(self.limit.bounded_by, speller),
            "seconds": self.seconds,
            "fits": self.fits,
        }

    def shortage(self) -> str:
        """What is too large, and what would help."""
        found = self.forecast
        worst = max(range(len(found.working)), key=found.working.__getitem__)
        work = f"work on segment {worst + 1} of {len(found.working)}"
        if found.named[worst]:
            work += f": {found.named[worst]}"
        parts = {
            "the process with the model open": found.resident,
            work: found.working[worst],
            **({"tuning": found.tuning} if found.tuning else {}),
            "verification": found.verifying,
        }
        listed = ", ".join(f"{gigabytes(size)} for {what}" for what, size in parts.items())
        return (
            f"{gigabytes(found.peak(self.bounds))} of memory are needed at least ({listed}); "
            f"{self.limit.bounded_by} leaves {gigabytes(self.limit.free)}. Smaller calibration "
            f"batches ({spelled('seq_len')}), {spelled('effort', 'fast')}, or a machine with "
            "more memory would help"
        )


def with_sites(program: Program, spec: QuantizationSpec) -> Decisions:
    """Canonicalize ``program`` and let it know its sites, as the passes will find them.

    Returns what becomes of each weight.
    """
    Canonicalize().apply(program)
    program.tidy()
    decisions = decide(program, spec)
    program.learn(sites=tuple(find_sites(program, exclude=decisions.refused.__contains__)))
    return decisions


def plan_ahead(
    program: Program,
    batches: Sequence[Batch],
    spec: QuantizationSpec,
    tunes: bool,
    memory: int | None,
) -> Plan:
    """Plan the compile of ``program``, which stays as it is.

    Args:
        program: in float32.
        batches: the calibration data.
        spec: of the weights.
        tunes: whether scales are tuned afterwards.
        memory: bytes that the process may hold; None: what there is.
    """
    seen = program.variant()
    with_sites(seen, spec)
    own, there = held(), room()
    limit = Room(there.free + own, there.bounded_by)
    if memory is not None:
        limit = min(limit, Room(memory, spelled("memory")))
    smallest, found = _largest_that_fits(
        limit.free, lambda size: forecast(seen, cut(seen, smallest=size), batches, spec, own, tunes)
    )
    seconds = (PASSES + TUNING * tunes) * found.operations / _operations_a_second()
    seconds += WEIGHT_SECONDS[spec.learns] * found.weights / torch.get_num_threads()
    return Plan(found, found.within(limit.free), smallest, limit, seconds)


def _largest_that_fits(limit: int, foresee: Callable[[int], Forecast]) -> tuple[int, Forecast]:
    """The size of segments, the usual one or a smaller one, that ``limit`` leaves room for.

    Where none does, the largest that needs least.
    """
    found: list[tuple[int, Forecast]] = []
    for size in dict.fromkeys((usual_size(), *SMALLER, 1)):
        found.append((size, foresee(size)))
        if found[-1][1].least() <= limit:
            return found[-1]
    return min(found, key=lambda each: each[1].least())


def _operations_a_second() -> float:
    """Multiplications and additions of float32 matrices, measured."""
    one = torch.ones(PROBE, PROBE)
    one @ one
    started = time.perf_counter()
    one @ one
    return float(2 * PROBE**3 / (time.perf_counter() - started))


def _some(count: int, what: str, more: str = "s") -> str:
    return f"{count} {what}{more if count != 1 else ''}"


def _count(number: int) -> str:
    return f"{number / 1e9:.1f} billion" if number >= 1e9 else f"{number / 1e6:.1f} million"


def gigabytes(size: int) -> str:
    """Bytes for people.

    >>> gigabytes(2_340_000_000), gigabytes(523_400_000)
    ('2.34 GB', '523 MB')
    """
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def minutes(seconds: float) -> str:
    """A time for people."""
    return f"{max(1, round(seconds / 60))} minutes" if seconds > 90 else f"{seconds:.0f} seconds"
