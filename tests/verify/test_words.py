"""Word error rate."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from awqc.verify.words import word_error_rate, word_errors

TEXTS = st.lists(st.sampled_from("abc"), max_size=8).map(" ".join)


@pytest.mark.parametrize(
    ("text", "reference", "errors"),
    [
        ("the cat sat", "the cat sat", 0),
        ("the bat sat", "the cat sat", 1),
        ("the sat", "the cat sat", 1),
        ("oh the cat sat", "the cat sat", 1),
        ("", "the cat sat", 3),
        ("cat the sat", "the cat sat", 2),
    ],
)
def test_words_that_are_wrong_are_counted(text: str, reference: str, errors: int) -> None:
    assert word_errors(text, reference) == errors


@given(TEXTS, TEXTS)
def test_it_is_a_distance(first: str, second: str) -> None:
    errors = word_errors(first, second)
    assert errors == word_errors(second, first)
    assert (errors == 0) == (first == second)
    lengths = len(first.split()), len(second.split())
    assert abs(lengths[0] - lengths[1]) <= errors <= max(lengths)


def test_the_rate_is_over_all_words() -> None:
    assert word_error_rate([("a b", "a b"), ("a", "a c")]) == 0.25
    assert word_error_rate([("", "")]) == 0
    assert word_error_rate([("a", "")]) == 1
