"""A module that is asked the same again does not run again."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from awqc.recording.remembered import remembering


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.runs = 0

    def forward(self, x: Tensor, mask: Tensor | None = None, times: int = 1) -> dict[str, Any]:
        self.runs += 1
        return {"states": x * times, "more": [None if mask is None else mask + 1]}


def test_the_same_call_is_answered_from_memory() -> None:
    model, x, mask = Counting(), torch.randn(2, 3), torch.ones(2)
    with remembering(model):
        first = model(x, mask=mask)
        second = model(x.clone(), mask=mask.clone())
        assert model.runs == 1
        assert torch.equal(first["states"], second["states"])
        assert second["more"][0].tolist() == [2, 2]
        second["states"].zero_()  # what one caller does to its answer is its own
        assert torch.equal(model(x, mask=mask)["states"], x)
    model(x, mask=mask)
    assert model.runs == 2


def test_any_other_call_runs() -> None:
    model, x, mask = Counting(), torch.randn(2, 3), torch.ones(2)
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
        ((x,), {}), ((x + 1,), {}), ((x,), {"mask": mask}), ((x,), {"mask": mask + 1}),
        ((x,), {"mask": mask + 1, "times": 2}), ((x.double(),), {"mask": mask + 1, "times": 2}),
    ]  # fmt: skip
    with remembering(model):
        for number, (args, kwargs) in enumerate(calls):
            assert torch.equal(model(*args, **kwargs)["states"], args[0] * kwargs.get("times", 1))
            assert model.runs == number + 1
        x.zero_()  # written into after it was given
        model(*calls[-1][0], **calls[-1][1])
        assert model.runs == len(calls)
        model(x)
        model(x.add_(1))
        assert model.runs == len(calls) + 2


def test_a_flag_that_the_configuration_has_counts_as_left_out() -> None:
    class Configured(Counting):
        config = SimpleNamespace(return_dict=True, x=True)

        def forward(self, x: Tensor, return_dict: bool | None = None) -> dict[str, Any]:  # type: ignore[override]  # takes another argument
            return super().forward(x)

    model, x = Configured(), torch.randn(2, 3)
    with remembering(model):
        for flag, runs in ((None, 1), (True, 1), (False, 2), (None, 3)):
            model(x, return_dict=flag)
            assert model.runs == runs
