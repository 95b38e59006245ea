"""A model that counts places takes no other positions in silence."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from awqc.errors import UsageError
from awqc.runtimes.counted_places import check_places, why_not_places


def given(mask: list[int], positions: list[int]) -> dict[str, Any]:
    past = len(mask) - len(positions)
    return {
        "position_ids": np.array([positions]),
        "attention_mask": np.array([mask]),
        "past_key_values.0.key": np.zeros((1, 2, past, 8), np.float32),
    }


FITTING = {
    "places": given([1, 1, 1], [0, 1, 2]),
    "places behind padding": given([0, 1, 1], [0, 1, 2]),
    "from the first token": given([0, 0, 1, 1], [0, 0, 0, 1]),
    "padding has any number": given([0, 0, 1, 1], [7, 1, 0, 1]),
    "a step behind padding": given([0, 0, 1, 1, 1], [2]),
    "padding on the right": given([1, 1, 0], [0, 1, 1]),
    "no positions": {"attention_mask": np.ones((1, 3))},
    "no mask": {"position_ids": np.array([[0, 1]])},
}


@pytest.mark.parametrize("kind", FITTING)
def test_positions_that_fit(kind: str) -> None:
    assert why_not_places(FITTING[kind]) is None
    check_places(FITTING[kind])


REFUSED = {
    "a step behind padding on the right": (
        given([1, 1, 0, 1], [2]),
        "is 2 for the token at place 3",
    ),
    "a second text in the row": (
        given([1, 1, 1, 1], [0, 1, 0, 1]),
        "is 0 for the token at place 2",
    ),
    "counted from one": (given([1, 1], [1, 2]), "is 1 for the token at place 0"),
    "three axes": ({"position_ids": np.zeros((3, 1, 2))}, "has shape"),
    "other rows": (given([1, 1], [0, 1]) | {"attention_mask": np.ones((2, 2))}, "has 1 rows"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_others_are_refused_with_where(kind: str) -> None:
    feeds, message = REFUSED[kind]
    with pytest.raises(UsageError, match=message):
        check_places(feeds)
