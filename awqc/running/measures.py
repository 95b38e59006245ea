"""How far the outputs of two models are from each other, in the terms of what they say."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from awqc.runtimes.ort_model import Array

LOGITS = "logits"
BATCH_AND_CLASSES, AN_IMAGE = 2, 4
"""Axes of logits over classes for a sample, and for each pixel of one."""


@dataclass
class OutputMeasure:
    """Sums over samples of one output.

    Attributes:
        name: of the output; what is called ``…logits…`` is judged by its largest entries.
        samples: that were judged.
        cosine: sum of cosines.
        noise: sum of squared differences; ``numbers`` were compared.
        low: the least of the reference, ``high`` the largest.
        agreed: largest entries that are the same, of ``chosen``.
        overlap: pixels of each class that both have; ``either``: that one of them has.
    """

    name: str
    samples: int = 0
    cosine: float = 0.0
    noise: float = 0.0
    numbers: int = 0
    low: float = math.inf
    high: float = -math.inf
    agreed: int = 0
    chosen: int = 0
    overlap: dict[int, int] = field(default_factory=dict)
    either: dict[int, int] = field(default_factory=dict)

    def add(self, found: Array, reference: Array) -> None:
        """Take in the output of one sample."""
        first, second = (each.astype(np.float64) for each in (found, reference))
        self.samples += 1
        lengths = float(np.linalg.norm(first) * np.linalg.norm(second))
        same = float(np.array_equal(first, second))
        self.cosine += float(np.vdot(first, second)) / lengths if lengths else same
        self.noise += float(np.square(first - second).sum())
        self.numbers += second.size
        self.low = min(self.low, float(second.min(initial=math.inf)))
        self.high = max(self.high, float(second.max(initial=-math.inf)))
        if LOGITS in self.name and first.ndim >= BATCH_AND_CLASSES:
            self._choose(first, second)

    def _choose(self, first: Array, second: Array) -> None:
        axis = 1 if first.ndim == AN_IMAGE else -1
        if first.shape[axis] < 2:
            return
        now, was = first.argmax(axis=axis), second.argmax(axis=axis)
        self.agreed += int((now == was).sum())
        self.chosen += was.size
        if first.ndim == AN_IMAGE:
            for each in np.union1d(now, was).tolist():
                both = int(((now == each) & (was == each)).sum())
                one = int(((now == each) | (was == each)).sum())
                self.overlap[each] = self.overlap.get(each, 0) + both
                self.either[each] = self.either.get(each, 0) + one

    def as_dict(self) -> dict[str, Any]:
        """The means; ``psnr_db`` is None where there is no difference."""
        rms, span = math.sqrt(self.noise / max(self.numbers, 1)), self.high - self.low
        found: dict[str, Any] = {
            "cosine": self.cosine / max(self.samples, 1),
            "psnr_db": 20 * math.log10(span / rms) if rms > 0 and span > 0 else None,
        }
        if self.chosen:
            found["top1_agreement"] = self.agreed / self.chosen
        if self.either:
            shares = [self.overlap[each] / count for each, count in self.either.items()]
            found["mean_iou"] = sum(shares) / len(shares)
        return found
