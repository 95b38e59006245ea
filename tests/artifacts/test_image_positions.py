"""Positions that follow the layout of images."""

from __future__ import annotations

import json

import numpy as np
import pytest

from awqc.artifacts.image_positions import ImagePositions
from awqc.artifacts.json_files import Object
from awqc.errors import UsageError

GRID = ImagePositions(np.array([[0, 0, 0, 0], [0, 0, 1, 1], [0, 1, 0, 1]]), ordered=1)
"""Of an image of 2 x 2: a row in the order of tokens, then time, the patch's row and its column."""
IMAGES = np.array([[0, 0, 1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 0, 0, 0, 0]]) > 0
WANTED = [
    [[0, 1, 2, 3, 4, 5, 6, 7], [0, 1, 2, 3, 4, 5, 6, 7]],
    [[0, 1, 2, 2, 2, 2, 4, 5], [0, 0, 0, 0, 2, 3, 4, 5]],
    [[0, 1, 2, 2, 3, 3, 4, 5], [0, 0, 1, 1, 2, 3, 4, 5]],
    [[0, 1, 2, 3, 2, 3, 4, 5], [0, 1, 0, 1, 2, 3, 4, 5]],
]


def test_text_goes_on_behind_the_largest_position() -> None:
    assert GRID.of_tokens(IMAGES).tolist() == WANTED
    assert GRID.unordered().of_tokens(IMAGES).tolist() == WANTED[1:]


def test_images_may_stand_side_by_side() -> None:
    found = GRID.unordered().of_tokens(np.ones((1, 8)) > 0)
    assert found[2].tolist() == [[0, 1, 0, 1, 2, 3, 2, 3]]


def test_a_token_of_images_alone_is_text() -> None:
    """As one that a model makes by itself."""
    found = GRID.unordered().of_tokens(np.array([[0, 1, 0, 1, 1, 1, 1, 0, 1]]) > 0)
    assert found[1].tolist() == [[0, 1, 2, 3, 3, 4, 4, 5, 6]]


def test_the_rule_is_found_in_runs() -> None:
    other = np.array([[0, 1, 1, 1, 1, 0]]) > 0
    runs = [(IMAGES, np.array(WANTED)), (other, GRID.of_tokens(other))]
    found = ImagePositions.found(runs, 4)
    assert found is not None
    assert (found.ordered, found.offsets.tolist()) == (1, GRID.offsets.tolist())


def changed() -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """As of text that goes on elsewhere behind an image in one of the runs."""
    wanted = np.array(WANTED)
    wanted[1:, 1, 4:] += 1
    return wanted


@pytest.mark.parametrize(
    ("positions", "count"),
    [
        (changed(), 4),
        (np.array(WANTED), 2),
        (np.array(WANTED)[[1, 0, 2]], 4),
        (np.array([WANTED[0]] * 3), 4),
    ],
    ids=["another start", "another number of tokens", "order behind", "order alone"],
)
def test_there_is_none_where_a_run_differs(
    positions: np.ndarray[tuple[int, ...], np.dtype[np.int64]], count: int
) -> None:
    assert ImagePositions.found([(IMAGES, positions)], count) is None


def test_it_comes_back_from_its_text() -> None:
    read = ImagePositions.of_json(Object.of_text(json.dumps(GRID.as_json()), "model"))
    assert read.of_tokens(IMAGES).tolist() == WANTED


@pytest.mark.parametrize(
    "text",
    [
        '{"ordered": 0, "offsets": [[0, 1], [0]]}',
        '{"ordered": 0, "offsets": []}',
        '{"ordered": 0, "offsets": [[0.5]]}',
        '{"ordered": -1, "offsets": [[0]]}',
    ],
)
def test_damaged_text_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="no rows of whole numbers"):
        ImagePositions.of_json(Object.of_text(text, "model"))
