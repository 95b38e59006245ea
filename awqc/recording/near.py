"""Whether values are near others, of which some may hide what a model never gives."""

from __future__ import annotations

import torch
from torch import Tensor

from awqc.numerics.hidden import shown


def near(made: Tensor, wanted: Tensor, share: float) -> bool:
    """Whether ``made`` is ``wanted`` but for ``share`` of its norm, and hides the same."""
    if not _hides_the_same(made, wanted):
        return False
    at = shown(wanted)
    return bool((made - wanted)[at].norm() <= share * wanted[at].norm())


def near_everywhere(made: Tensor, wanted: Tensor, share: float) -> bool:
    """The same for each value, against ``share`` of the largest magnitude."""
    if not _hides_the_same(made, wanted):
        return False
    gaps, sizes = (values[shown(wanted)].abs() for values in (made - wanted, wanted))
    return gaps.numel() == 0 or bool(gaps.max() <= share * sizes.max())


def _hides_the_same(made: Tensor, wanted: Tensor) -> bool:
    return made.shape == wanted.shape and torch.equal(shown(made), shown(wanted))
