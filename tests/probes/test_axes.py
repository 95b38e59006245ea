"""Conditions on sizes, and the sizes that break them."""

from __future__ import annotations

from pathlib import Path

import pytest
import sympy
from torch.utils._sympy.functions import FloorDiv, Mod

from awqc.probes import axes
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


@pytest.mark.parametrize(("text", "value"), [
    (7, 7), ("batch", 3), ("past + sequence", 8), ("2*s0", 8), ("(s0 + 1)//2", 2), ("-s0 + 6", 2),
    ("s0**2 % 7", 2),
])  # fmt: skip
def test_sizes_are_read_as_arithmetic(text: int | str, value: int) -> None:
    sizes = {"batch": 3, "past": 3, "sequence": 5, "s0": 4}
    found = axes._expression(text)
    assert found.subs({each: sizes[each.name] for each in found.free_symbols}) == value


@pytest.mark.parametrize("text", ["__import__('os').mkdir('ran')", "a.b", "f(x)", "[1]", "'a'"])
def test_a_size_is_never_evaluated(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="no arithmetic"):
        axes._expression(text)
    assert not (tmp_path / "ran").exists()
