"""What a compile of a model of several graphs will need, part by part and together.

Parts are captured and the model runs on few samples; nothing else is done.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from typing import Any

from torch import Tensor

from awqc.bundle.parts import Bundle
from awqc.data.calibration import CalibrationData
from awqc.data.load import DataSource
from awqc.errors import Note, Speller, UsageError, in_python, spelled
from awqc.huggingface.folder import HFFolder
from awqc.huggingface.task_table import FolderTask
from awqc.machine.progress import stage
from awqc.options import Options
from awqc.passes.part_patterns import patterns_within
from awqc.passes.planning import Plan, gigabytes, minutes
from awqc.stages.foreseen import foresee_program
from awqc.whole.compiling import data_of_parts
from awqc.whole.from_folder import choose_given, open_generating
from awqc.whole.from_run import data_of_calls
from awqc.whole.recorded_run import record_run
from awqc.whole.run_folders import RunFolder, open_run

FEW = 2
"""Samples that a model is run on to plan, which makes calls of two sizes."""
RUNS = 3
"""Times that such a model runs in a compile: it is looked at, recorded, and run as compiled."""


@dataclass(frozen=True)
class WholePlan:
    """What the compile of all parts needs, one after another in one process.

    Attributes:
        parts: by name, in order.
        recorded: bytes of what all parts read while the model runs, which are held meanwhile.
        seconds: that the model itself runs on the data.
    """

    parts: Mapping[str, Plan]
    recorded: int
    seconds: float

    @property
    def peak(self) -> int:
        """Bytes that the process will hold at most: parts that are compiled stay in it."""
        codes = [plan.forecast.codes for plan in self.parts.values()]
        before = accumulate(codes, initial=0)
        return self.recorded + max(
            done + plan.forecast.peak(plan.bounds)
            for done, plan in zip(before, self.parts.values(), strict=False)
        )

    @property
    def disk(self) -> int:
        """Bytes of files."""
        return sum(plan.forecast.disk(plan.bounds) for plan in self.parts.values())

    @property
    def limit(self) -> int:
        """Bytes that the process may hold."""
        return min(plan.limit.free for plan in self.parts.values())

    @property
    def fits(self) -> bool:
        """Whether the memory is enough for each part, and for all."""
        return self.peak <= self.limit and all(plan.fits for plan in self.parts.values())

    @property
    def total_seconds(self) -> float:
        """Of all parts, and of running the model."""
        return self.seconds + sum(plan.seconds for plan in self.parts.values())

    def told(self) -> str:
        """For people: a line for each part, and one for all."""
        lines = [f"{name}: {plan.told()}" for name, plan in self.parts.items()]
        enough = (
            ""
            if self.fits
            else f"; {gigabytes(self.limit)} are there: fewer samples "
            f"({spelled('num_samples')}) or a machine with more memory would help"
        )
        return "\n".join(
            [
                *lines,
                f"together: {gigabytes(self.peak)} of memory, {gigabytes(self.disk)} of disk, "
                f"{minutes(self.total_seconds)}, of which the model itself runs for "
                f"{minutes(self.seconds)}{enough}",
            ]
        )

    def as_dict(self, speller: Speller = in_python) -> dict[str, Any]:
        """Plain values for JSON, in bytes and seconds; ``speller`` words names of options."""
        return {
            "parts": {name: plan.as_dict(speller) for name, plan in self.parts.items()},
            "recorded": self.recorded,
            "running_seconds": self.seconds,
            "peak": self.peak,
            "disk": self.disk,
            "limit": self.limit,
            "seconds": self.total_seconds,
            "fits": self.fits,
        }


def plan_generating(
    folder: HFFolder, task: FolderTask, source: DataSource, options: Options
) -> WholePlan:
    """What the compile of the model in ``folder`` needs; it generates for one sample.

    Raises:
        UsageError: an option or the data is not for such a model.
        CaptureError: the model cannot be loaded, recorded or captured.
        CalibrationError: the data does not fit.
    """
    opened = open_generating(folder, task, options, _silent, source)
    chosen = choose_given(opened.generating, source, options)
    if chosen.count < 2:
        raise UsageError(
            f"{chosen.source}: {chosen.count} samples are there; give two at least: one is held "
            "back"
        )
    inputs = opened.generating.inputs([next(iter(chosen.samples))], options.seq_len)
    started = time.perf_counter()
    with stage("generate for one sample …"):
        trace = opened.parts.follow(inputs, opened.most).trace
    seconds = (time.perf_counter() - started) * chosen.count
    bundle: Bundle = opened.parts.bundle
    data = data_of_parts(bundle, [trace] * chosen.count)
    seen, made = trace
    held = chosen.count * _bytes([*seen.values(), made])
    return WholePlan(_planned(bundle, data, options), held, seconds)


def plan_run_folder(folder: RunFolder, source: DataSource, options: Options) -> WholePlan:
    """What the compile of the model in ``folder`` needs; it runs on few samples.

    Raises:
        UsageError: an option or the data is not for such a model.
        CaptureError: the model cannot be loaded, run or captured.
    """
    few = replace(options, num_samples=FEW)
    opened = open_run(folder, source, few, _silent)
    took: list[float] = []

    def timed(pipe: Any) -> object:
        started = time.perf_counter()
        made = opened.run(pipe)
        took.append(time.perf_counter() - started)
        return made

    recorded = record_run(opened.model, timed, few, opened.naming)
    times = max(1, round((options.num_samples or opened.usual) / opened.samples))
    bundle = Bundle({part.name: part.program for part in recorded.parts})
    data = {part.name: data_of_calls(part, times) for part in recorded.parts}
    held = times * sum(_bytes(part.batches()) for part in recorded.parts)
    return WholePlan(_planned(bundle, data, options), held, RUNS * times * min(took))


def _planned(
    bundle: Bundle, data: Mapping[str, CalibrationData], options: Options
) -> dict[str, Plan]:
    return dict(_each(bundle, data, options))


def _each(
    bundle: Bundle, data: Mapping[str, CalibrationData], options: Options
) -> Iterator[tuple[str, Plan]]:
    for name, program in bundle.parts.items():
        own = replace(options, exclude=patterns_within(options.exclude, program, name))
        yield name, foresee_program(program.clone(), partial(data.__getitem__, name), own)


def _bytes(batches: Iterable[Mapping[str, Tensor]]) -> int:
    """Of all tensors in ``batches``, each counted once."""
    found = {id(x): x.nbytes for batch in batches for x in batch.values()}
    return sum(found.values())


def _silent(note: Note) -> None:
    """A plan tells nothing of the data."""
