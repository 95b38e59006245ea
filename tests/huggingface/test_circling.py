"""Texts that go in circles are ended, in what is recorded alone."""

from __future__ import annotations

import pytest
import torch

from awqc.huggingface.circling import LONGEST, REPEATED, Circling


def ended(made: list[int], prompt: list[int]) -> int | None:
    """After how many new tokens the criterion ends a text."""
    criterion = Circling()
    for count in range(1, len(made) + 1):
        if criterion(torch.tensor([prompt + made[:count]]), None).item():
            return count
    return None


@pytest.mark.parametrize("size", range(1, LONGEST + 1))
def test_a_circle_is_seen_when_it_was_gone_through_often_enough(size: int) -> None:
    said = [100, 101, 102]
    assert ended(said + list(range(size)) * 40, prompt=[1]) == len(said) + REPEATED + size


def test_other_texts_go_on() -> None:
    generator = torch.Generator().manual_seed(0)
    assert ended(torch.randint(0, 9, (200,), generator=generator).tolist(), prompt=[1]) is None
    assert ended(list(range(LONGEST + 1)) * 40, prompt=[1]) is None
    assert ended([7] * REPEATED, prompt=[7]) is None


def test_a_prompt_may_repeat_what_it_likes() -> None:
    assert ended([1, 2, 3], prompt=[5] * 500) is None


def test_rows_end_each_by_itself() -> None:
    criterion, rows = Circling(), torch.arange(60).repeat(2, 1)
    rows[1] = 3
    assert criterion(rows[:, :1], None).tolist() == [False, False]
    assert criterion(rows, None).tolist() == [False, True]
