"""The one size of images that a compiled model takes, with the numbers that stand for it.

A model that goes by the numbers in an input, such as an image's size or its grid of patches, is
made for one of them; see docs/images-and-text.md.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from awqc.artifacts.json_files import Object
from awqc.errors import UsageError

Array = np.ndarray[Any, Any]
HEIGHT, WIDTH, INPUTS = "height", "width", "inputs"


@dataclass(frozen=True)
class FixedImages:
    """Images of one size.

    Attributes:
        height: in pixels, before the model's processor.
        width: likewise.
        numbers: what the processor makes of one such image that the model goes by, by name.
    """

    height: int
    width: int
    numbers: Mapping[str, Array]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.height, self.width

    def as_text(self) -> str:
        """The same as JSON, for the metadata of a model."""
        told = {name: value.tolist() for name, value in self.numbers.items()}
        return json.dumps({HEIGHT: self.height, WIDTH: self.width, INPUTS: told})

    @classmethod
    def of_text(cls, text: str, where: str) -> FixedImages:
        """What `as_text` made.

        Raises:
            UsageError: it is something else.
        """
        told = Object.of_text(text, where)
        inputs = told.inside(INPUTS)
        numbers = {name: np.array(value) for name, value in inputs.values(list).items()}
        if any(value.dtype.kind != "i" for value in numbers.values()):
            raise UsageError(f"{where}: holds no whole numbers; compile the model anew")
        return cls(told.get(HEIGHT, int), told.get(WIDTH, int), numbers)

    def count(self, feeds: Mapping[str, Array]) -> int:
        """The images in ``feeds``, what the processor made of a sample.

        Raises:
            UsageError: they are of another size.
        """
        count = 0
        for name, wanted in self.numbers.items():
            given = feeds.get(name, wanted[:0])
            count = len(given) // len(wanted)
            if not count or not np.array_equal(given, np.concatenate([wanted] * count)):
                raise UsageError(
                    f"{name} is {given.tolist()}; the model was compiled for images of "
                    f"{self.height} x {self.width} pixels (height x width), of which it is "
                    f"{wanted.tolist()}: give images of this size to the processor, or compile "
                    "with data whose first image has the size that is needed"
                )
        return count
