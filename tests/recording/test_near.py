"""Values that are near others, some of which hide the rest."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from awqc.recording.near import near, near_everywhere

LOWEST, NAN = torch.finfo(torch.float32).min, float("nan")
WANTED = torch.tensor([[1.0, 2.0, LOWEST]])
both = pytest.mark.parametrize("judge", [near, near_everywhere])
Judge = Callable[[Tensor, Tensor, float], bool]


@both
def test_what_is_hidden_hides_no_difference(judge: Judge) -> None:
    assert judge(WANTED * torch.tensor([1.0001, 1.0, 1.0]), WANTED, 1e-3)
    assert not judge(torch.tensor([[2.0, 1.0, LOWEST]]), WANTED, 1e-3)


@both
def test_the_same_has_to_be_hidden(judge: Judge) -> None:
    assert judge(torch.tensor([[1.0, 2.0, -torch.inf]]), WANTED, 1e-3)
    assert not judge(torch.tensor([[1.0, 2.0, 3.0]]), WANTED, 1e-3)
    assert not judge(torch.tensor([[1.0, LOWEST, LOWEST]]), WANTED, 1e-3)


@both
def test_other_shapes_and_what_is_no_number_are_not_near(judge: Judge) -> None:
    assert not judge(WANTED[0], WANTED, 1e-3)
    assert not judge(torch.tensor([[NAN, 2.0, LOWEST]]), WANTED, 1e-3)
    assert not judge(WANTED, torch.tensor([[NAN, 2.0, LOWEST]]), 1e-3)
    assert not judge(torch.tensor([NAN]), torch.tensor([NAN]), 1e-3)


def test_one_value_among_many_counts_where_each_does() -> None:
    wanted = torch.ones(1000)
    made = wanted.clone()
    made[7] = 1.005
    assert near(made, wanted, 1e-3)
    assert not near_everywhere(made, wanted, 1e-3)
