"""A module gets back the forward that it had, also one of its own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from awqc.recording.instead import forward_instead

X = torch.tensor([1.0])


class Same(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


def test_that_of_its_class_comes_back_also_after_an_error() -> None:
    module = Same()
    with forward_instead(module, lambda x: x + 1):
        assert module(X) == 2
    with pytest.raises(ZeroDivisionError), forward_instead(module, lambda x: 1 // 0):
        module(X)
    assert module(X) == 1
    assert "forward" not in vars(module)


def test_one_that_was_set_on_it_comes_back() -> None:
    module = Same()
    module.forward = lambda x: x * 5  # type: ignore[method-assign]  # as tools that wrap models do
    with forward_instead(module, lambda x: x + 1), forward_instead(module, lambda x: x + 2):
        assert module(X) == 3
    assert module(X) == 5
