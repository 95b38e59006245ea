"""Samples of text, images and audio, and samples that are made up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from awqc.program import AUDIO, IMAGE, TEXT, Kinds

PATCH = 16
"""Pixels between the points of a made-up image that are drawn; what lies between is smooth."""
TONES = 5


@dataclass(frozen=True)
class Sample:
    """What a model reads at once: of each kind of data one, or none.

    Attributes:
        source: where it comes from, for messages.
        text: a text.
        image: a PIL image in RGB.
        more: further images, for models whose prompts may have several.
        wanted: what a model should say of it: a text, a class by its name or number.
        audio: a NumPy array ``(samples,)``, float32, at the processor's rate.
    """

    source: str
    text: str | None = None
    image: Any = None
    audio: Any = None
    more: tuple[Any, ...] = ()
    wanted: str | int | None = None

    @property
    def images(self) -> tuple[Any, ...]:
        """All images, in order."""
        return (() if self.image is None else (self.image,)) + self.more

    def sized(self, size: tuple[int, int]) -> Sample:
        """The same with images of ``size``, height and width; those of another are stretched."""
        made = tuple(_sized(image, size) for image in self.images)
        return replace(self, image=made[0], more=made[1:]) if made else self


@dataclass(frozen=True)
class Sizes:
    """How large a made-up sample is.

    Attributes:
        image: height and width.
        seconds: of audio.
        words: of text.
    """

    image: tuple[int, int] = (240, 320)
    seconds: float = 4.0
    words: int = 8


USUAL = Sizes()


@dataclass(frozen=True)
class Maker:
    """Makes up samples of the kinds in ``reads``; the same for the same seed.

    Attributes:
        reads: the kinds of data.
        rate: samples a second, where audio is read.
        words: what texts are made of, where text is read.
    """

    reads: Kinds
    rate: int = 0
    words: Sequence[str] = ()

    def sample(self, random: np.random.Generator, sizes: Sizes = USUAL) -> Sample:
        """The next one."""
        count = round(sizes.seconds * self.rate)
        return Sample(
            "made-up data",
            self.text(random, sizes.words) if TEXT in self.reads else None,
            _image(random, *sizes.image) if IMAGE in self.reads else None,
            _audio(random, count, self.rate) if AUDIO in self.reads else None,
        )

    def text(self, random: np.random.Generator, count: int = USUAL.words) -> str:
        """The next text, of ``count`` words."""
        return " ".join(self.words[index] for index in random.integers(len(self.words), size=count))


def _sized(image: Any, size: tuple[int, int]) -> Any:
    width_and_height = size[::-1]
    return image if image.size == width_and_height else image.resize(width_and_height)


def _image(random: np.random.Generator, height: int, width: int) -> Any:
    """Smooth patches of color with a little noise."""
    from PIL import Image

    points = random.integers(256, size=(height // PATCH + 2, width // PATCH + 2, 3), dtype=np.uint8)
    smooth = Image.fromarray(points).resize((width, height), Image.Resampling.BICUBIC)
    noisy = np.asarray(smooth) + random.normal(scale=8, size=(height, width, 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def _audio(random: np.random.Generator, count: int, rate: int) -> Any:
    """A few tones that come and go, with a little noise: float32 ``(count,)`` within [-1, 1]."""
    time = np.arange(count) / rate
    made = random.normal(scale=0.01, size=count)
    for pitch in random.uniform(80, min(4000, rate / 2), size=TONES):
        swell = np.sin(np.pi * (time * random.uniform(0.5, 2) + random.uniform())) ** 2
        made += 0.15 * swell * np.sin(2 * np.pi * pitch * time)
    return made.clip(-1, 1).astype(np.float32)
