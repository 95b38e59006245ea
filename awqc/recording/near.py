"""Whether values are near others, of which some are so low that they hide the rest.

A model hides what it never makes, such as tokens of pieces of images, behind the lowest number that
there is; next to that every difference is small.
"""

from __future__ import annotations

import torch
from torch import Tensor

HIDDEN = -1e30
"""Values below are no numbers that were computed."""


def near(made: Tensor, wanted: Tensor, share: float) -> bool:
    """Whether ``made`` is ``wanted`` but for ``share`` of its norm, and hides the same."""
    if made.shape != wanted.shape:
        return False
    shown = wanted > HIDDEN
    if not torch.equal(shown, made > HIDDEN):
        return False
    gap, size = (made - wanted)[shown].norm(), wanted[shown].norm()
    return bool(gap <= share * size)


def largest_shown(values: Tensor) -> float:
    """The largest magnitude among those that are not hidden."""
    return float(torch.where(values > HIDDEN, values, 0).abs().max())
