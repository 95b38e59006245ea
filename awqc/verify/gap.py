"""How far one output is from another, in numbers.

What an output tells is how it varies; a constant that is added to all of it tells nothing. All
distances are therefore relative to the variation, not to the norm::

    V    root of the mean square of (reference - its mean), over all elements
    rel  root of the mean square of (now - reference), over V

An output that does not vary has only its value to tell: V is then its magnitude M, the root of
the mean square of the reference. Floats are rounded relative to their magnitude, so two correct
computations may differ by ``ULPS`` units of the last place of M besides.

A wrong row or column among many hardly moves the whole, so each has a measure of its own::

    row     (N_r - rounding) / (V_r + V)                     one place of all axes but the last
    column  (N_c - rounding) / (V_c + COLUMN_FLOOR * V)      one place of the last axis

with N, V and the rounding of that part alone. The second addend is there because what is summed
into a small part is rounded as what stands beside it; rows are many, and some are small by chance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from awqc.errors import VerificationError
from awqc.numerics.hidden import HIDDEN, shown
from awqc.verify.columns import Columns

CHUNK = 2**19
"""Elements that are compared at once, in float64."""

ULPS = 16
"""Units of the last place of the magnitude that correct computations may differ by."""


@dataclass
class Gap:
    """How far one output is from its reference, gathered over batches.

    Attributes:
        max_abs: largest absolute difference.
        noise: sum of squares of the difference.
        signal: sum of squares of the reference.
        discrete: whether it holds integers or booleans, of which each is right or wrong.
        constant: whether the output depends on no input, so that zeros are what it has to be.
        row: measure of the worst row, see above.
        among: of scores that were chosen: those among which they were, whose variation counts then.
            Two that are nearly equal may change places, and differ by all that they vary alone.
    """

    max_abs: float = 0.0
    noise: float = 0.0
    signal: float = 0.0
    discrete: bool = False
    constant: bool = False
    row: float = 0.0
    among: Gap | None = None
    _columns: Columns = field(default_factory=Columns)
    _count: int = 0
    _pivot: float | None = None
    _sum: float = 0.0
    _square: float = 0.0
    _dot: float = 0.0
    _size: float = 0.0
    _agree: int = 0
    _asked: int = 0
    _unequal: int = 0
    _eps: float = 0.0
    _finite: bool = True

    def add(self, now: Tensor, reference: Tensor, mask: Tensor | None = None) -> None:
        """Take a batch in; ``mask`` marks the tokens that count.

        Raises:
            VerificationError: the shapes differ.
        """
        now, reference = now.detach(), reference.detach()
        if now.shape != reference.shape:
            raise VerificationError(
                f"an output has shape {tuple(now.shape)}, the reference {tuple(reference.shape)}"
            )
        if mask is not None and reference.shape[: mask.ndim] == mask.shape and not mask.all():
            now, reference = now[mask], reference[mask]
        if now.numel() == 0:
            return
        if reference.is_complex():
            now, reference = torch.view_as_real(now), torch.view_as_real(reference)
        self.discrete = not reference.is_floating_point()
        if not self.discrete:
            floats = [value.dtype for value in (now, reference) if value.is_floating_point()]
            self._eps = max(self._eps, *(torch.finfo(dtype).eps for dtype in floats))
            now, reference = (_hidden_as_infinite(value) for value in (now, reference))
        width = reference.shape[-1] if reference.ndim > 1 else 1
        rows = max(1, CHUNK // width)
        parts = zip(
            now.reshape(-1, width).split(rows),
            reference.reshape(-1, width).split(rows),
            strict=True,
        )
        seen = [self._add(part.double(), wanted.double()) for part, wanted in parts]
        if width > 1 and not self.discrete:
            self._add_rows(*(torch.cat(values) for values in zip(*seen, strict=True)))

    def _add(self, now: Tensor, reference: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Take in rows, in float64; of each row the root mean squares `_add_rows` takes."""
        valid = None
        if not (_is_finite(now) and _is_finite(reference)):
            # Where the reference is not finite there is nothing to compare.
            same = torch.isnan(reference) | (torch.isinf(reference) & (now == reference))
            self._finite &= bool((torch.isfinite(now) | same).all())
            valid = ~same
            now, reference = (torch.where(same, 0, value) for value in (now, reference))
            now, reference = (value.nan_to_num(posinf=0, neginf=0) for value in (now, reference))
        count = reference.numel() if valid is None else int(valid.sum())
        if self._pivot is None and count:
            self._pivot = float(reference.mean() if valid is None else reference[valid].mean())
        difference = now - reference
        moved = reference - (self._pivot or 0.0)
        if valid is not None:
            moved = torch.where(valid, moved, 0)
        self._count += count
        self._unequal += int(difference.count_nonzero())
        self.max_abs = max(self.max_abs, float(torch.linalg.vector_norm(difference, math.inf)))
        self.noise += _dot(difference, difference)
        self.signal += _dot(reference, reference)
        self._sum += float(moved.sum())
        self._square += _dot(moved, moved)
        self._dot += _dot(now, reference)
        self._size += _dot(now, now)
        if now.shape[-1] > 1:
            alike = now.argmax(-1) == reference.argmax(-1)
            self._agree += int(alike.sum())
            self._asked += alike.numel()
        self._columns.add(difference, moved, reference, valid)
        if valid is None:
            varied = moved.sub_(moved.mean(-1, keepdim=True))
        else:
            middle = moved.sum(-1, keepdim=True) / valid.sum(-1, keepdim=True).clamp(min=1)
            varied = torch.where(valid, moved - middle, 0)
        return _rms(difference), _rms(varied), _rms(reference)

    def _add_rows(self, noise: Tensor, varied: Tensor, size: Tensor) -> None:
        """Take in the root mean squares of a batch's rows: difference, variation, reference."""
        beyond = (noise - ULPS * self._eps * size).clamp(min=0)
        self.row = max(self.row, _largest(beyond, varied + self.variation))

    @property
    def finite(self) -> bool:
        """Whether no NaN or infinity came that the reference has not."""
        return self._finite

    @property
    def compared(self) -> int:
        """Elements that say something: none where both sides are zero throughout."""
        silent = not (self.discrete or self.constant or self.signal or self.noise)
        return 0 if silent and self._finite else self._count

    @property
    def magnitude(self) -> float:
        """Root of the mean square of the reference."""
        return math.sqrt(self.signal / self._count) if self._count else 0.0

    @property
    def variation(self) -> float:
        """Root of the mean square of the reference's deviation from its mean, or the magnitude."""
        if not self._count:
            return 0.0
        if self.among is not None:
            return self.among.variation
        mean = self._sum / self._count
        varied = math.sqrt(max(self._square / self._count - mean * mean, 0.0))
        return varied if varied > ULPS * self._eps * self.magnitude else self.magnitude

    @property
    def rounding(self) -> float:
        """What rounding of the magnitude may add to `rel`."""
        return ULPS * self._eps * _over(self.magnitude, self.variation)

    @property
    def rel(self) -> float:
        """The difference relative to the variation.

        Of discrete values it is the share that differs, if that is less: indices have no
        distance, and of counts or pixels nearly all may move a little.
        """
        if not self._finite:
            return math.inf
        if not self._count:
            return 0.0
        rel = _over(math.sqrt(self.noise / self._count), self.variation)
        return min(rel, self.differing) if self.discrete else rel

    @property
    def norm_rel(self) -> float:
        """``|now - reference| / |reference|`` in the L2 norm: for outputs that are small by chance
        it is less than `rel`."""
        return _over(math.sqrt(self.noise), math.sqrt(self.signal)) if self._finite else math.inf

    @property
    def differing(self) -> float:
        """Share of elements that are not equal."""
        return self._unequal / self._count if self._count else 0.0

    @property
    def column(self) -> float | None:
        """Measure of the worst column, see above; None where there are too few rows."""
        return None if self.discrete else self._columns.worst(self.variation, ULPS * self._eps)

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

    def distance(self) -> dict[str, Any]:
        """Numbers that tell whether two forms compute the same."""
        found: dict[str, Any] = {
            "max_abs": self.max_abs, "rel": self.rel, "compared": self.compared,
        }  # fmt: skip
        if self.discrete:
            return {**found, "differing": self.differing}
        return {**found, "rounding": self.rounding, "row": self.row, "column": self.column}

    def loss(self) -> dict[str, Any]:
        """Numbers that tell what one form has lost against another."""
        return {
            "sqnr_db": self.sqnr_db,
            "rel": self.rel,
            "cosine": self.cosine,
            "max_abs": self.max_abs,
            "argmax_agreement": self.argmax_agreement,
            "compared": self.compared,
        }


def _rms(rows: Tensor) -> Tensor:
    root: Tensor = torch.linalg.vector_norm(rows, dim=-1) / math.sqrt(max(1, rows.shape[-1]))
    return root


def _dot(one: Tensor, other: Tensor) -> float:
    return float(torch.dot(one.reshape(-1), other.reshape(-1)))


def _hidden_as_infinite(value: Tensor) -> Tensor:
    if not value.is_floating_point() or float(value.amin()) > HIDDEN:
        return value
    return torch.where(shown(value), value, -math.inf)


def _is_finite(values: Tensor) -> bool:
    """Whether no element is NaN or infinite; seldom not told though it holds."""
    return math.isfinite(float(values.sum()))


def _over(part: float, whole: float) -> float:
    if part == 0:
        return 0.0
    return part / whole if whole > 0 else math.inf


def _largest(parts: Tensor, wholes: Tensor) -> float:
    """The largest of ``parts / wholes``, nothing over nothing being 0."""
    return float(torch.where(parts == 0, 0.0, parts / wholes).max())
