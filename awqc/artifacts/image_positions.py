"""Positions in several rows, in which those of an image's tokens follow its layout.

::

    tokens      a   b   #   #   #   #   c   d        #: of an image of 2 x 2 patches
    order       0   1   2   3   4   5   6   7
    rows        0   1   2   2   3   3   4   5        the patch's row, from where the image begins
    columns     0   1   2   3   2   3   4   5

A token of text stands one behind the largest position so far, in every row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from awqc.artifacts.json_files import Object
from awqc.errors import UsageError

Array = np.ndarray[Any, Any]
ORDERED, OFFSETS = "ordered", "offsets"


@dataclass(frozen=True)
class ImagePositions:
    """How positions follow from which tokens are those of images.

    Attributes:
        offsets: ``(rows, count)``: for each token of an image the position from where it begins.
        ordered: rows before these that number tokens by their order.
    """

    offsets: Array
    ordered: int = 0

    @property
    def rows(self) -> int:
        """Positions of each token."""
        return self.ordered + len(self.offsets)

    @classmethod
    def found(cls, runs: Sequence[tuple[Array, Array]], count: int) -> ImagePositions | None:
        """The rule of ``runs``, if all of them follow it; None where they do not.

        Of each run: which tokens are those of images, ``(batch, tokens)``, of which ``count`` are
        one image, and the positions, ``(rows, batch, tokens)``.
        """
        images, positions = runs[0]
        order = np.arange(images.shape[1])
        plain = [bool((row == order).all()) for row in positions]
        ordered = plain.index(False) if False in plain else len(plain)
        start = int(images[0].argmax())
        offsets = positions[ordered:, 0, start : start + count] - start
        made = cls(offsets, ordered)
        if ordered == len(plain) or offsets.shape[1] != count:
            return None
        follow = (
            len(found) == made.rows and np.array_equal(made.of_tokens(told), found)
            for told, found in runs
        )
        return made if all(follow) else None

    def unordered(self) -> ImagePositions:
        """The same without rows that number tokens by their order."""
        return replace(self, ordered=0)

    def of_tokens(self, images: Array) -> Array:
        """Positions, ``(rows, batch, tokens)``, where ``images`` ``(batch, tokens)`` tells tokens.

        Those of an image stand together, as many as `offsets` has; fewer count as text.
        """
        found = np.empty((self.rows, *images.shape), dtype=np.int64)
        found[: self.ordered] = np.arange(images.shape[1])
        for place, told in enumerate(images):
            found[self.ordered :, place] = self._of_text(told)
        return found

    def _of_text(self, images: Array) -> Array:
        rows, count = self.offsets.shape
        found = np.empty((rows, len(images)), dtype=np.int64)
        done = following = 0
        for start in _starts(images, count):
            found[:, done:start] = following + np.arange(start - done)
            begin = following + start - done
            found[:, start : start + count] = begin + self.offsets
            done, following = start + count, begin + int(self.offsets.max()) + 1
        found[:, done:] = following + np.arange(len(images) - done)
        return found

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {ORDERED: self.ordered, OFFSETS: self.offsets.tolist()}

    @classmethod
    def of_json(cls, told: Object) -> ImagePositions:
        """What `as_json` made.

        Raises:
            UsageError: it is something else.
        """
        rows = told.items(OFFSETS, list)
        offsets = np.array(rows) if len({len(row) for row in rows}) == 1 else np.array([])
        ordered = told.get(ORDERED, int)
        if offsets.ndim != 2 or offsets.dtype.kind != "i" or ordered < 0:
            raise UsageError(f"{told.where}: no rows of whole numbers; compile the model anew")
        return cls(offsets, ordered)


def _starts(images: Array, count: int) -> list[int]:
    """Where images of ``count`` tokens begin, one behind another."""
    found: list[int] = []
    for place in np.flatnonzero(images).tolist():
        free = not found or place >= found[-1] + count
        if free and place + count <= len(images) and images[place : place + count].all():
            found.append(place)
    return found
