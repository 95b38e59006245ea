"""What calibration learns about one activation: enough to judge any quantization of its readers.

The loss of replacing a weight W by W' on inputs X (tokens x K) is exactly::

    || (W' - W) X^T ||^2 / tokens  =  || (W' - W) F^T ||^2     with  F^T F = X^T X / tokens

so a factor F of the second moments is all that the search needs; the model never runs again.
Up to `EXACT_COLUMNS` columns X^T X itself is summed. Beyond, F is a sketch S = R X with a
random sign a token (a count sketch whose bucket is the token's position modulo ``rows``):
E[S^T S] = X^T X (Charikar, Chen, Farach-Colton 2002). An observer costs one pass over X.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

EXACT_COLUMNS = 256


@dataclass(frozen=True)
class Statistics:
    """Second moments and magnitudes of an activation seen as a matrix ``(blocks, tokens, K)``.

    Attributes:
        tokens: number of rows that were summed.
        abs_mean: float32 ``(blocks, K)``, mean of \\|x\\|.
        abs_max: float32 ``(blocks, K)``.
        factor: float32 ``(blocks, m, K)`` with ``factor^T factor = X^T X / tokens``, exactly or
            in expectation.
    """

    tokens: int
    abs_mean: Tensor
    abs_max: Tensor
    factor: Tensor
