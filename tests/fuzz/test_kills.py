"""A few rounds of each signal; `tests/fuzz/kills.py` runs as many as you like."""

from __future__ import annotations

import sys

import pytest

from tests.fuzz.kills import kill


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
@pytest.mark.parametrize("name", ["KILL", "TERM", "HUP", "INT"])
def test_compiles_that_are_killed_at_random_moments(name: str) -> None:
    assert kill(4, name, seed=1).total() == 4
