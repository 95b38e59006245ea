"""Records read as samples, and what was done to them on the way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from awqc.data.audio_files import read_audio
from awqc.data.blobs import MediaFile
from awqc.data.image_files import read_image
from awqc.data.image_transform import ImageTransform
from awqc.data.records import Record
from awqc.errors import CalibrationError
from awqc.huggingface.processor import Processor
from awqc.huggingface.samples import Maker, Sample
from awqc.machine.progress import track
from awqc.program import AUDIO, IMAGE, TEXT

LONGEST = 30
"""Seconds of audio that are used of a file."""


@dataclass
class SampleReader:
    """Reads records as samples that ``processor`` takes.

    Raises:
        UsageError: a file is not there, or a package that reads it.
        CalibrationError: a file is damaged or empty.
    """

    processor: Processor | ImageTransform
    maker: Maker
    random: np.random.Generator
    modes: Counter[str] = field(default_factory=Counter)
    rates: Counter[int] = field(default_factory=Counter)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    cut: int = 0
    without_text: int = 0

    def read(self, records: Sequence[Record]) -> Iterator[Sample]:
        """The samples, one at a time."""
        for record in track(records, "read data"):
            text = record.text
            if text is None and TEXT in self.processor.reads:
                text = self.maker.text(self.random)
                self.without_text += 1
            if record.more and not self.processor.prompted:
                raise CalibrationError(
                    f"{record.source}: has {1 + len(record.more)} images; the model reads one at a "
                    "time: give each a line of its own"
                )
            image = self.image(record.files[IMAGE]) if IMAGE in record.files else None
            more = tuple(self.image(each) for each in record.more)
            audio = self._audio(record.files[AUDIO]) if AUDIO in record.files else None
            yield Sample(record.source, text, image, audio, more, record.wanted)

    def image(self, path: MediaFile) -> Any:
        """The image of a file, in RGB."""
        image, mode = read_image(path)
        if mode != "RGB":
            self.modes[mode] += 1
        wanted = self.processor.image_size
        size = image.height, image.width
        if wanted is not None and size != wanted:
            self.sizes[size] += 1
        return image

    def _audio(self, path: MediaFile) -> Any:
        rate = self.processor.rate
        samples, own = read_audio(path, rate)
        if own != rate:
            self.rates[own] += 1
        if len(samples) > LONGEST * rate:
            self.cut += 1
        return samples[: LONGEST * rate]

    def notes(self) -> list[str]:
        """What the user should know."""
        notes = []
        if self.modes:
            found = ", ".join(sorted(self.modes))
            notes.append(f"{self.modes.total()} images in other colors ({found}) were made RGB")
        if self.sizes and self.processor.image_size is not None:
            height, width = self.processor.image_size
            notes.append(
                f"{self.sizes.total()} images of other sizes were brought to {height} x {width} "
                "pixels (height x width), for which the model is made"
            )
        if self.rates:
            found = ", ".join(map(str, sorted(self.rates)))
            notes.append(
                f"{self.rates.total()} audio files of another rate ({found} Hz) were resampled to "
                f"{self.processor.rate} Hz"
            )
        if self.cut:
            notes.append(f"of {self.cut} longer audio files the first {LONGEST} seconds are used")
        if self.without_text:
            notes.append(
                f"{self.without_text} samples have no text, which the model reads beside: random "
                'words were made up; give a .jsonl file with "text" in each line'
            )
        return notes
