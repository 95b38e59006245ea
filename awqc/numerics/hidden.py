"""Numbers that hide what a model never gives, such as tokens that it must not make.

They are the lowest that there are, or -inf; next to them every difference is small.
"""

from __future__ import annotations

from torch import Tensor

HIDDEN = -1e30
"""Values below are no numbers that were computed."""


def shown(values: Tensor) -> Tensor:
    """Which of ``values`` hide nothing; NaN hides nothing either."""
    return ~(values < HIDDEN)
