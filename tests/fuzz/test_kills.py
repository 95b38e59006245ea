"""A few kills; `python -m tests.fuzz --only kills` makes as many as you like."""

from __future__ import annotations

import sys

import pytest

from tests.fuzz.kills import looking


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
def test_compiles_that_are_killed() -> None:
    with looking() as look:
        outcomes = [what for number in range(8) for what in look(number)]
    assert len(outcomes) == 8
    assert sum("SIGKILL" in what for what in outcomes) == 6
