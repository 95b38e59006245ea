"""Between torch and what runtimes take: NumPy arrays, and inputs described as NumPy does."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from awqc.program import InputSpec
from awqc.runtimes.base import ArraySpec


def input_spec(spec: ArraySpec) -> InputSpec:
    """``spec`` with torch's dtype."""
    return InputSpec(spec.name, getattr(torch, spec.dtype), spec.shape)


def to_numpy(value: Tensor) -> Any:
    """An array that shares memory where it can; bfloat16, which NumPy lacks, becomes float32."""
    if value.dtype == torch.bfloat16:
        value = value.float()
    return value.detach().cpu().contiguous().numpy()
