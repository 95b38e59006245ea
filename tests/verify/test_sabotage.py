"""Damage done on purpose is caught; docs/verification.md tells down to which size."""

from __future__ import annotations

import pytest

from tests.verification_page import PAGE
from tests.verify.sabotage import DAMAGES, SUBJECTS, caught


def test_undamaged_models_compile() -> None:
    for model in ("MLP", "two outputs"):
        assert caught(model, "pt2 exporter: scales of a weight", 0.0) is None


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_of_a_hundredth_is_caught(name: str) -> None:
    assert caught("MLP", name, 0.01) is not None


@pytest.mark.parametrize("form", ["onnx", "pt2"])
def test_a_small_output_beside_a_large_one_is_guarded(form: str) -> None:
    said = caught("two outputs", f"{form} exporter: scale of a channel", 0.01)
    assert said is not None
    assert "output_1" in said


@pytest.mark.slow
@pytest.mark.parametrize("name", DAMAGES)
@pytest.mark.parametrize("model", SUBJECTS)
def test_damage_is_caught_in_every_model(name: str, model: str) -> None:
    assert caught(model, name, 0.01) is not None


def test_the_page_has_a_row_for_each_damage() -> None:
    text = PAGE.read_text("utf-8")
    assert all(f"| {name} |" in text for name in DAMAGES)
