"""Entries: methods of modules that code outside of modules calls."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from awqc.errors import CaptureError
from awqc.recording.entries import EntryPoint, find_entries, modules_of
from awqc.recording.outermost import record_entries
from tests.recording.toys import IDS, Toy
from tests.whole.pipes import Pipe, draw


def test_methods_that_call_modules_are_entries() -> None:
    pipe = Pipe()
    modules = modules_of(pipe)
    assert {"texts", "texts.table", "denoiser.inner", "coder"} <= set(modules)
    found = find_entries(modules, lambda: draw(pipe))
    assert found == [EntryPoint("texts"), EntryPoint("denoiser"), EntryPoint("coder", "decode")]
    assert [str(entry) for entry in found] == ["texts", "denoiser", "coder.decode"]
    assert not pipe.texts._forward_hooks


def test_a_method_that_loops_is_looked_into() -> None:
    model = Toy()
    found = find_entries(modules_of(model), lambda: model.generate(IDS, 3))
    assert found == [EntryPoint("encoder"), EntryPoint("")]


def test_in_place_of_what_is_opened_is_what_it_calls() -> None:
    pipe = Pipe()
    opened = [EntryPoint("denoiser"), EntryPoint("coder", "decode")]
    found = find_entries(modules_of(pipe), lambda: draw(pipe), opened)
    assert [str(entry) for entry in found] == [
        "texts", "denoiser.read", "denoiser.inner", "denoiser.outer", "coder.before", "coder.after",
    ]  # fmt: skip


class Private(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(4, 4)

    def begin(self, x: Tensor) -> Tensor:
        return self._first(x)

    def _first(self, x: Tensor) -> Tensor:
        out: Tensor = self(x)
        return out

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.one(x)
        return out


def test_a_private_method_is_no_entry() -> None:
    model, x = Private(), torch.ones(2, 4)
    found = find_entries(modules_of(model), lambda: [model._first(x), model(x)])
    assert found == [EntryPoint("")]
    found = find_entries(modules_of(model), lambda: model.begin(x))
    assert [entry.method for entry in found] == ["begin"]


class Twice(nn.Module):
    """Two methods, each of which calls one module once: what runs them is no loop of the model."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)

    def both(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))

    def first(self, x: Tensor) -> Tensor:
        out: Tensor = self.one(x)
        return out

    def second(self, x: Tensor) -> Tensor:
        out: Tensor = self.two(x)
        return out


@pytest.mark.parametrize(
    ("run", "wanted"),
    [
        (lambda m, x: m.both(x), ["both"]),
        (lambda m, x: [m.both(x), m.both(x)], ["both"]),
        (lambda m, x: m.second(m.first(x)), ["first", "second"]),
        (lambda m, x: [m.first(x) for _ in range(3)], ["first"]),
    ],
)
def test_the_outermost_method_counts(run: Any, wanted: list[str]) -> None:
    model = Twice()
    found = find_entries(modules_of(model), lambda: run(model, torch.ones(2, 4)))
    assert [entry.method for entry in found] == wanted


def test_calls_of_methods_are_recorded_by_the_names_behind_a_wrapper() -> None:
    pipe = Pipe()
    modules = modules_of(pipe)
    entries = find_entries(modules, lambda: draw(pipe))
    calls = record_entries(modules, entries, lambda: draw(pipe))
    decoded = [call for call in calls if call.method == "decode"]
    assert len(decoded) == 6
    assert list(decoded[0].before) == ["z"]
    assert decoded[0].arguments["return_dict"] is False
    assert "decode" not in vars(pipe.coder)  # the class's own is back


def test_an_object_without_modules_has_none() -> None:
    assert modules_of(object()) == {}


class Any_(nn.Module):  # noqa: N801  a name that says what it takes
    def forward(self, *values: Tensor) -> Tensor:
        return values[0]


def test_arguments_without_names_are_refused() -> None:
    model = Any_()
    with pytest.raises(CaptureError, match=r"Any_: forward takes \*values"):
        record_entries(modules_of(model), [EntryPoint("")], lambda: model(torch.ones(1)))
