"""How a tensor of a program lies in the checkpoint it came from: found by value, never by name.

Capture may store a parameter in another form than the checkpoint has it: transposed (a
``Conv1D``), or as ``1 + w`` or ``k w`` where the model computes that before it multiplies.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

EXACT, ROUNDED = 2e-2, 0.7
"""Largest ``|found - wanted| / |wanted|`` of a float tensor (in bfloat16), of a quantized one."""


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


def find_layout(original: Tensor, value: Tensor, tolerance: float = EXACT) -> Layout | None:
    """The layout by which ``original`` becomes ``value``, or None if there is none.

    The simplest that fits is taken: the tensor itself, its transpose, a shift, a factor.
    """
    candidates = [Layout()]
    if original.ndim == 2:
        candidates.append(Layout(transposed=True))
    if original.shape == value.shape and original.numel():
        first, second = original.double().flatten(), value.double().flatten()
        candidates.append(Layout(shift=float((second - first).mean())))
        power = float(first @ first)
        if power > 0 and float(first @ second) != 0:
            candidates.append(Layout(factor=float(first @ second) / power))
    return next((c for c in candidates if _gap(c, original, value) < tolerance), None)


def _gap(layout: Layout, original: Tensor, value: Tensor) -> float:
    found = layout.to_program(original)
    if found.shape != value.shape:
        return float("inf")
    size = max(float(torch.linalg.vector_norm(value.float())), 1e-30)
    return float(torch.linalg.vector_norm(found - value.float())) / size
