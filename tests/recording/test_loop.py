"""What a loop carries from call to call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from awqc.errors import CaptureError
from awqc.recording.loop import Loop, longest_loop, sources
from awqc.recording.outermost import OutsideCall, record_outermost
from tests.recording.toys import IDS, Cache, Toy


def recorded(steps: int = 3) -> list[OutsideCall]:
    model = Toy()
    return record_outermost(model, lambda: model.generate(IDS, steps))


def test_states_and_what_is_made_once_are_told_apart() -> None:
    calls = recorded()
    loop = Loop.of(calls[1:])
    assert loop.states == ("cache.own.0.keys",)
    assert loop.once == ("cache.other.0.keys",)
    assert loop.fresh == ("tokens",)
    assert loop.given == ("encoded.states", "mask")
    assert loop.made == ("logits",)
    made = sources(calls, loop.first, loop.given)
    assert {k: (call.path, path) for k, (call, path) in made.items()} == {
        "encoded.states": ("encoder", "states")
    }


def test_of_several_loops_the_longest_counts() -> None:
    model = Toy()

    def run() -> None:
        model.generate(IDS, 1)  # as a model that first asks for the language
        model.generate(IDS, 3)

    calls = [call for call in record_outermost(model, run) if call.path == ""]
    assert longest_loop(calls) == calls[1:]


def test_a_call_that_is_given_more_at_first_is_another_loop() -> None:
    """As a language is asked of a whole model, mask and all, before it generates."""
    model = Toy()

    def run() -> None:
        states = model.encoder(IDS, mask=torch.ones_like(IDS))["states"]
        cache, tokens = Cache(), torch.ones(2, 1, dtype=torch.long)
        more = {"states": states, "again": states}
        model(tokens, encoded=more, cache=cache, mask=torch.ones_like(IDS))
        model.generate(IDS, 3)

    calls = [call for call in record_outermost(model, run) if call.path == ""]
    assert longest_loop(calls) == calls[1:]


def test_two_calls_do_not_tell() -> None:
    with pytest.raises(CaptureError, match="called 2 times only"):
        Loop.of(recorded(2)[1:])


def test_one_call_after_another_that_is_given_nothing_more_is_no_loop() -> None:
    calls = recorded()[1:2]
    with pytest.raises(CaptureError, match="keeps no state and reads everything anew"):
        Loop.of(longest_loop([*calls, *calls]))


@dataclass
class Counter:
    seen: int = 0
    last: Tensor | None = None


class Counts(nn.Module):
    def forward(self, x: Tensor, state: Counter) -> Tensor:
        state.seen += 1
        state.last = x + state.seen
        return state.last


class Forgets(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2


def loop_of(model: nn.Module, *rest: Any) -> Loop:
    def run() -> None:
        for number in range(3):
            model(torch.full((2,), float(number)), *rest)

    return Loop.of(record_outermost(model, run))


def test_what_is_carried_in_a_number_is_refused() -> None:
    with pytest.raises(CaptureError, match=r"state\.seen is 1 in one call and 2 in the next"):
        loop_of(Counts(), Counter())


def test_a_loop_that_carries_nothing_is_refused() -> None:
    with pytest.raises(CaptureError, match="carries no tensor from one call to the next"):
        loop_of(Forgets())
