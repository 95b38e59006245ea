"""Calls of a module, recorded while its model runs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from awqc.errors import CaptureError
from awqc.recording.calls import bind, record_calls


class Inner(nn.Module):
    def forward(self, x: Tensor, scale: float = 1.0, **more: Any) -> Tensor:
        return x * scale


class Outer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.unused = Inner(), Inner()

    def forward(self, x: Tensor, scale: float = 2.0) -> Tensor:
        made: Tensor = self.inner(x + 1, scale, mask=x > 0)
        x.zero_()
        return made


def test_a_call_has_the_names_of_forward_and_the_values_that_it_was_called_with() -> None:
    model = Outer()
    seen = record_calls(model, model.inner, [((torch.ones(size),), {}) for size in (2, 3)], 5)
    assert [call.tensors["x"].tolist() for call in seen] == [[2, 2], [2, 2, 2]]
    assert seen[0].form == {"x": Tensor, "scale": 2.0, "mask": Tensor}


def test_what_is_changed_later_is_recorded_as_it_was() -> None:
    model = Outer()
    seen = record_calls(model, model, [((torch.ones(2),), {})], 5)
    assert seen[0].tensors["x"].tolist() == [1, 1]


def test_no_more_calls_than_asked_for_are_kept() -> None:
    model = Outer()
    assert len(record_calls(model, model.inner, [((torch.ones(2),), {})] * 4, 3)) == 3


def test_what_cannot_be_recorded_is_refused() -> None:
    model = Outer()
    with pytest.raises(CaptureError, match="Inner: forward is not called on the data given"):
        record_calls(model, model.unused, [((torch.ones(2),), {})], 5)
    calls = [((torch.ones(2),), {"scale": scale}) for scale in (1.0, 3.0)]
    with pytest.raises(CaptureError, match="Inner: forward is called in several forms"):
        record_calls(model, model.inner, calls, 5)
    with pytest.raises(CaptureError, match=r"Sequence: forward takes \*items, which has no names"):
        bind(Sequence(), (1, 2), {})


class Sequence(nn.Module):
    def forward(self, *items: Any) -> Any:
        return items
