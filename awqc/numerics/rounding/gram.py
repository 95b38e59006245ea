"""The second moments of what a product reads, made fit for solving with."""

from __future__ import annotations

import torch
from torch import Tensor

DAMPING = 0.01


def conditioned(gram: Tensor, damping: float = DAMPING) -> Tensor:
    """``gram`` ``(columns, columns)`` with mean diagonal 1, plus ``damping`` on the diagonal.

    Losses are quadratic in it, so its size does not matter; without damping the directions
    that the calibration data never took would be free. An all-zero gram becomes the identity:
    rounding to nearest.
    """
    columns = gram.shape[-1]
    mean = gram.diagonal().mean()
    if not bool(mean > 0):
        return torch.eye(columns, device=gram.device)
    found = gram / mean
    found.diagonal(dim1=-2, dim2=-1).add_(damping)
    return found


def group_blocks(gram: Tensor, width: int, groups: int) -> Tensor:
    """The diagonal blocks ``(groups, width, width)``; a ragged last one is padded with zeros."""
    missing = groups * width - gram.shape[-1]
    padded = torch.nn.functional.pad(gram, (0, missing, 0, missing))
    blocks = padded.reshape(groups, width, groups, width)
    return blocks.diagonal(dim1=0, dim2=2).movedim(-1, 0)


def loss(error: Tensor, gram: Tensor) -> float:
    """``|| error X^T ||^2 / tokens`` for ``error`` ``(rows, columns)``."""
    return float(((error @ gram) * error).sum())
