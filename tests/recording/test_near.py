"""Values that are near others, some of which hide the rest."""

from __future__ import annotations

import torch

from awqc.recording.near import largest_shown, near

LOWEST = torch.finfo(torch.float32).min
WANTED = torch.tensor([[1.0, 2.0, LOWEST]])


def test_what_is_hidden_hides_no_difference() -> None:
    assert near(WANTED * torch.tensor([1.0001, 1.0, 1.0]), WANTED, 1e-3)
    assert not near(torch.tensor([[2.0, 1.0, LOWEST]]), WANTED, 1e-3)


def test_the_same_has_to_be_hidden() -> None:
    assert not near(torch.tensor([[1.0, 2.0, 3.0]]), WANTED, 1e-3)
    assert not near(torch.tensor([[1.0, LOWEST, LOWEST]]), WANTED, 1e-3)


def test_other_shapes_and_what_is_no_number_are_not_near() -> None:
    assert not near(WANTED[0], WANTED, 1e-3)
    assert not near(torch.tensor([[float("nan"), 2.0, LOWEST]]), WANTED, 1e-3)
    assert largest_shown(WANTED) == 2.0
