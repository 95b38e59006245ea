"""Conditions on sizes, and the sizes that break them."""

from __future__ import annotations

import pytest
import sympy
from torch.utils._sympy.functions import FloorDiv, Mod

from awqc.probes.axes import breaks

SIZE = sympy.Symbol("n", integer=True, positive=True)


@pytest.mark.parametrize(
    ("condition", "size", "broken"),
    [
        (sympy.Eq(SIZE % 2, 0), 4, False),
        (sympy.Eq(SIZE % 2, 0), 5, True),
        (sympy.Eq(Mod(FloorDiv(SIZE - 10, 5), 2), 0), 30, False),
        (sympy.Eq(Mod(FloorDiv(SIZE - 10, 5), 2), 0), 25, True),
        (sympy.Eq(Mod(FloorDiv(SIZE - 10, 5), 2), 0), 5, True),  # -1 windows: too short
        (sympy.Eq(Mod(SIZE, FloorDiv(SIZE, 4)), 0), 2, True),  # a remainder by 0
    ],
)
def test_a_size_breaks_what_does_not_hold_or_means_nothing(
    condition: sympy.Basic, size: int, broken: bool
) -> None:
    assert breaks(condition, {SIZE: size}) == broken
