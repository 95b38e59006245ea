"""How a tensor of a program lies in the checkpoint it came from: found by value, never by name.

Capture may store a parameter in another form than the checkpoint has it: transposed (a
``Conv1D``), or as ``1 + w`` or ``k w`` where the model computes that before it multiplies.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor

EXACT, ROUNDED = 2e-2, 0.7
"""Largest ``|found - wanted| / |wanted|`` of a float tensor (in bfloat16), of a quantized one."""

AT_ONCE = 2**22
"""Elements of a tensor that are looked at together."""


@dataclass(frozen=True)
class Layout:
    """``program = factor * original + shift``, the original transposed or not."""

    transposed: bool = False
    factor: float = 1.0
    shift: float = 0.0

    def to_program(self, original: Tensor) -> Tensor:
        """The checkpoint's tensor in the program's form: float32."""
        value = original.float() * self.factor + self.shift
        return value.t() if self.transposed else value

    def to_original(self, value: Tensor) -> Tensor:
        """The program's tensor in the checkpoint's form: float32."""
        value = value.t() if self.transposed else value
        return ((value.float() - self.shift) / self.factor).contiguous()

    def fill(self, original: Tensor, value: ByRows) -> Tensor:
        """``value``, the program's tensor, in the checkpoint's form, written into ``original``."""
        view = original.t() if self.transposed else original
        for start, stop in value.slices():
            view[start:stop] = (value.rows(start, stop) - self.shift) / self.factor
        return original


@dataclass(frozen=True)
class ByRows:
    """A tensor that is made a few rows of its first axis at a time, in float32.

    Attributes:
        shape: of the whole.
        rows: makes rows ``start`` to ``stop``; all of a tensor without axes.
    """

    shape: tuple[int, ...]
    rows: Callable[[int, int], Tensor]

    @classmethod
    def of(cls, tensor: Tensor) -> ByRows:
        """Of a tensor that lies somewhere already, in any dtype."""

        def cut(start: int, stop: int) -> Tensor:
            return (tensor[start:stop] if tensor.ndim else tensor).float()

        return cls(tuple(tensor.shape), cut)

    @property
    def numel(self) -> int:
        """Of the whole."""
        return math.prod(self.shape)

    def slices(self) -> Iterator[tuple[int, int]]:
        """Where to cut: few elements at once."""
        count = self.shape[0] if self.shape else 1
        step = max(1, AT_ONCE // max(1, math.prod(self.shape[1:])))
        for start in range(0, count, step):
            yield start, min(start + step, count)


def find_layout(original: Tensor, value: ByRows, tolerance: float = EXACT) -> Layout | None:
    """The layout by which ``original`` becomes ``value``, or None if there is none.

    The simplest that fits is taken: the tensor itself, its transpose, a shift, a factor.
    """
    return next((c for c in _candidates(original, value) if _gap(c, original, value) < tolerance),
                None)  # fmt: skip


def _candidates(original: Tensor, value: ByRows) -> Iterator[Layout]:
    yield Layout()
    if original.ndim == 2:
        yield Layout(transposed=True)
    if tuple(original.shape) != value.shape or not original.numel():
        return
    own, moved, power, dot = ByRows.of(original), 0.0, 0.0, 0.0
    for start, stop in value.slices():
        first, second = own.rows(start, stop).double(), value.rows(start, stop).double()
        moved += float((second - first).sum())
        power += float(first.square().sum())
        dot += float((first * second).sum())
    yield Layout(shift=moved / original.numel())
    if power > 0 and dot != 0:
        yield Layout(factor=dot / power)


def _gap(layout: Layout, original: Tensor, value: ByRows) -> float:
    turned = original.t() if layout.transposed else original
    if tuple(turned.shape) != value.shape:
        return float("inf")
    own, noise, size = ByRows.of(turned), 0.0, 0.0
    for start, stop in value.slices():
        wanted = value.rows(start, stop)
        found = own.rows(start, stop) * layout.factor + layout.shift
        noise += float((found - wanted).double().square().sum())
        size += float(wanted.double().square().sum())
    return math.sqrt(noise) / max(math.sqrt(size), 1e-30)
