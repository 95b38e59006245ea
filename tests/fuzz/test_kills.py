"""A few rounds of each signal; `tests/fuzz/kills.py` runs as many as you like."""

from __future__ import annotations

import sys

import pytest

from tests.fuzz.kills import kill


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
@pytest.mark.parametrize(("name", "rounds"), [("KILL", 3), ("TERM", 1), ("HUP", 1), ("INT", 1)])
def test_compiles_that_are_killed_at_random_moments(name: str, rounds: int) -> None:
    assert kill(rounds, name, seed=1).total() == rounds
