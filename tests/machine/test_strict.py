"""Second-best ways are noted; where the environment asks for none, they are errors."""

from __future__ import annotations

import pytest

from awqc.machine.strict import STRICT, FallbackError, fall_back, is_strict


def test_tests_take_no_fallback() -> None:
    notes: list[str] = []
    assert is_strict()
    with pytest.raises(FallbackError, match="done slowly") as caught:
        fall_back(notes.append, "done slowly", ValueError("why"))
    assert isinstance(caught.value.__cause__, ValueError)
    assert notes == []


@pytest.mark.fallbacks
def test_a_fallback_is_told() -> None:
    notes = ["before"]
    fall_back(notes.append, "done slowly", ValueError("why"))
    assert not is_strict()
    assert notes == ["before", "done slowly"]


@pytest.mark.parametrize(("value", "strict"), [("1", True), ("0", False), ("", False)])
def test_the_environment_decides(value: str, strict: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(STRICT, value)
    assert is_strict() == strict
