"""How far outputs are from others, in numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from awqc.errors import VerificationError

CHUNK = 2**20
"""Elements that are compared at once, in float64."""


@dataclass
class Gap:
    """How far one set of outputs is from another, gathered over batches.

    Attributes:
        max_abs: largest absolute difference.
        signal: sum of squares of the reference.
        noise: sum of squares of the difference.
    """

    max_abs: float = 0.0
    signal: float = 0.0
    noise: float = 0.0
    _dot: float = 0.0
    _size: float = 0.0
    _agree: int = 0
    _asked: int = 0
    _finite: bool = True

    def add(self, now: Tensor, reference: Tensor, mask: Tensor | None = None) -> None:
        """Take one output in; ``mask`` marks the tokens that count."""
        now, reference = now.detach(), reference.detach()
        if now.shape != reference.shape:
            raise VerificationError(
                f"an output has shape {tuple(now.shape)}, the reference {tuple(reference.shape)}"
            )
        if mask is not None and reference.shape[: mask.ndim] == mask.shape:
            now, reference = now[mask], reference[mask]
        width = reference.shape[-1] if reference.ndim > 1 else 1
        if now.numel() == 0:
            return
        rows = max(1, CHUNK // width)
        parts = zip(
            now.reshape(-1, width).split(rows),
            reference.reshape(-1, width).split(rows),
            strict=True,
        )
        for part, wanted in parts:
            self._add(part.double(), wanted.double())

    def _add(self, now: Tensor, reference: Tensor) -> None:
        """Take in rows, in float64."""
        # Where the reference is not finite there is nothing to compare.
        same = torch.isnan(reference) | (torch.isinf(reference) & (now == reference))
        self._finite &= bool((torch.isfinite(now) | same).all())
        now, reference = (
            torch.where(same, 0, value).nan_to_num(posinf=0, neginf=0) for value in (now, reference)
        )
        difference = now - reference
        self.max_abs = max(self.max_abs, float(difference.abs().max()))
        self.signal += float(reference.square().sum())
        self.noise += float(difference.square().sum())
        self._dot += float((now * reference).sum())
        self._size += float(now.square().sum())
        if now.shape[-1] > 1:
            same = now.argmax(-1) == reference.argmax(-1)
            self._agree += int(same.sum())
            self._asked += same.numel()

    @property
    def finite(self) -> bool:
        """Whether no NaN or infinity came that the reference has not."""
        return self._finite

    @property
    def rel(self) -> float:
        """``|now - reference| / |reference|`` in the L2 norm."""
        if not self._finite:
            return math.inf
        if self.signal == 0:
            return 0.0 if self.noise == 0 else math.inf
        return math.sqrt(self.noise / self.signal)

    @property
    def sqnr_db(self) -> float | None:
        """Signal to quantization noise, in dB; None where there is no noise at all."""
        return None if self.rel == 0 else -20 * math.log10(self.rel)

    @property
    def cosine(self) -> float:
        """Cosine of the angle between the two, over all elements."""
        size = math.sqrt(self._size * self.signal)
        return self._dot / size if size > 0 else float(self.noise == 0)

    @property
    def argmax_agreement(self) -> float | None:
        """Share of rows whose largest element is the same; None where outputs have no rows."""
        return self._agree / self._asked if self._asked else None

    def distance(self) -> dict[str, float]:
        """Numbers that tell whether two forms compute the same."""
        return {"max_abs": self.max_abs, "rel": self.rel}

    def loss(self) -> dict[str, float | None]:
        """Numbers that tell what one form has lost against another."""
        return {
            "sqnr_db": self.sqnr_db,
            "rel": self.rel,
            "cosine": self.cosine,
            "max_abs": self.max_abs,
            "argmax_agreement": self.argmax_agreement,
        }
