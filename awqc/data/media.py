"""Images and audio in, batches of a model's inputs out, through the model's own processor."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from awqc.data.calibration import HELD_OUT, CalibrationData
from awqc.data.grouping import Grouped
from awqc.data.image_transform import ImageTransform
from awqc.data.records import Record, TableRecords, file_records, json_records
from awqc.data.sample_reader import SampleReader
from awqc.data.sample_tables import Table, is_table
from awqc.data.text_files import read_lines
from awqc.errors import CalibrationError, UsageError, spelled
from awqc.huggingface.processor import Processor
from awqc.huggingface.samples import Sample
from awqc.program import TEXT, Batch, Kinds, Program

T = TypeVar("T")
NUM_SAMPLES = 64

Media = tuple[Path, ...] | Path | None
"""Files, a ``.jsonl`` file or table that names some, or nothing: then data is made up."""


def media_calibration(
    program: Program,
    processor: Processor | ImageTransform,
    given: Media,
    source: str,
    *,
    num_samples: int | None = None,
    seed: int = 0,
) -> CalibrationData:
    """Calibration data for a model that reads images or audio.

    ``source`` says where it comes from. Each sample goes through ``processor``; those that come out
    with equal sizes are batched. Where a model reads texts beside and none are given, they are
    made up.

    Raises:
        UsageError: there is no data of the kind that the model reads, or ``num_samples`` is not
            positive.
        CalibrationError: a file is damaged, empty, or gives what the model does not take.
    """
    if num_samples is not None and num_samples < 1:
        raise UsageError(f"{spelled('num_samples')} is {num_samples}; give a positive number")
    count = num_samples or NUM_SAMPLES
    chosen = choose_samples(processor, given, source, program.name, count, seed)
    batches, held_out = _divided(program, processor, chosen)
    notes = (*chosen.notes, *chosen.reader.notes())
    return CalibrationData(tuple(batches), tuple(held_out), chosen.source, given is None, notes)


@dataclass(frozen=True)
class Chosen:
    """Samples that are used of what was given, or made up.

    Attributes:
        samples: read one at a time.
        count: how many there are.
        source: where they come from, for messages.
        notes: what the user should know; ``reader`` knows more when all are read.
        reader: what reads them.
    """

    samples: Iterable[Sample]
    count: int
    source: str
    notes: list[str]
    reader: SampleReader


def choose_samples(
    processor: Processor | ImageTransform,
    given: Media,
    source: str,
    where: str,
    count: int,
    seed: int,
) -> Chosen:
    """``count`` samples of what was ``given``, evenly spread, or as many made up.

    A text file that is no ``.jsonl`` has one in each line, for models that read text alone.

    Raises:
        UsageError: there is no data of the kind that the processor takes.
        CalibrationError: a file is damaged or empty.
    """
    reads, maker = processor.reads, processor.maker()
    reader = SampleReader(processor, maker, np.random.default_rng(seed))
    if given is None:
        made = (maker.sample(reader.random) for _ in range(count))
        note, source = _made_up(reads, count, seed), f"made-up {' and '.join(reads)}, seed {seed}"
        return Chosen(made, count, source, [note], reader)
    records = _records(processor, given, where)
    chosen = records if len(records) <= count else _spread(records, count)
    return Chosen(reader.read(chosen), len(chosen), source, _used(records, chosen), reader)


def _records(
    processor: Processor | ImageTransform, given: tuple[Path, ...] | Path, where: str
) -> Sequence[Record]:
    if isinstance(given, tuple):
        return file_records(given, processor.reads, where)
    if processor.reads == (TEXT,):
        return _text_records(given, processor)
    if is_table(given):
        return TableRecords(Table.open(given), processor.reads)
    if given.suffix.lower() == ".txt":
        raise UsageError(
            f"{given}: is text; {where} reads {' and '.join(processor.reads)}: give files of it, a "
            "folder of them, or a .jsonl file whose lines name them"
        )
    return json_records(given, processor.reads)


def _text_records(given: Path, processor: Processor | ImageTransform) -> Sequence[Record]:
    """A record for each line of text, or for each line of JSON or row that has a ``text``."""
    if is_table(given):
        return TableRecords(Table.open(given), processor.reads)
    lines = [Record(str(given), line, {}) for line in read_lines(given, processor.made)]
    if given.suffix.lower() != ".jsonl":
        return lines
    named = json_records(given, processor.reads)
    return [replace(each, text=line.text) for each, line in zip(named, lines, strict=True)]


def _made_up(reads: Kinds, count: int, seed: int) -> str:
    what = " and ".join(reads)
    return (
        f"no calibration data was given: {count} samples of {what} are made up, seed {seed}, and "
        "went through the model's own processor. Real data calibrates better, and the errors below "
        f"hold for made-up data; give some with {spelled('calib', 'FOLDER')}"
    )


def _spread(items: Sequence[T], count: int) -> list[T]:
    """``count`` of ``items``, evenly spread."""
    return [items[index * len(items) // count] for index in range(count)]


def _used(records: Sequence[Record], chosen: Sequence[Record]) -> list[str]:
    if len(chosen) == len(records):
        return []
    return [
        f"{len(chosen)} of {len(records)} samples are used; {spelled('num_samples')} says otherwise"
    ]


def _divided(
    program: Program, processor: Processor | ImageTransform, chosen: Chosen
) -> tuple[list[Batch], list[Batch]]:
    """Batches for calibration, and those of the `HELD_OUT` share, evenly spread.

    Raises:
        CalibrationError: a sample does not fit, or there are fewer than a batch takes.
    """
    count, notes = chosen.count, chosen.notes
    held = _spread(range(count), max(1, round(count * HELD_OUT))) if count > 1 else []
    groups = Grouped(program), Grouped(program)
    for index, sample in enumerate(chosen.samples):
        groups[index in held].add(sample.source, processor.inputs([sample]))
    left = sum(group.finish() for group in groups)
    if left:
        notes.append(f"{left} samples are left out: the model takes a fixed number at a time")
    batches, held_out = (group.batches for group in groups)
    if not batches:
        raise CalibrationError(
            f"{program.name}: {count} samples are fewer than the model takes at a time; give more"
        )
    if not held_out:
        notes.append("the data leaves nothing to hold out: verification uses what calibration saw")
    return batches, held_out or batches
