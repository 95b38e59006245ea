"""Calls inside of a call, and runs that end at one of them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from awqc.recording.entries import EntryPoint
from awqc.recording.inner import given_instead, record_inner, result_inside
from tests.recording.toys import PROMPT, WIDTH, WORDS, Sees

PIXELS = torch.ones(2, 2, 4)


def test_calls_are_listed_as_they_begin() -> None:
    model = Sees()
    calls = record_inner(model, lambda: model(PROMPT, pixels=PIXELS), ("table", "eye", "eye.2"))
    assert [call.path for call in calls] == ["table", "eye", "eye.2"]
    assert [call.left for call in calls] == [0, 2, 1]
    assert torch.equal(calls[0].given["input"], PROMPT)
    assert torch.equal(calls[1].result[""], calls[2].result[""])


def test_a_run_ends_where_it_has_to() -> None:
    model = Sees()
    calls = record_inner(
        model,
        lambda: model(PROMPT, pixels=PIXELS),
        ("eye", "reader"),
        lambda ended, call: call.path == "reader" and [each.path for each in ended] == ["eye"],
    )
    assert [call.path for call in calls] == ["eye", "reader"]
    assert calls[-1].given["rows"].shape == (2, 4, WIDTH)
    assert not calls[-1].result
    assert model(PROMPT, pixels=PIXELS).shape == (2, 4, WORDS)  # as before


class Outer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Sees()
        self.inner.add_module("reader", nn.Identity())  # which is given rows by name, and fails

    def forward(self, tokens: Tensor, pixels: Tensor) -> Tensor:
        rows: Tensor = self.inner(tokens, pixels=pixels)
        return rows + 1


def test_a_result_is_seen_and_nothing_behind_it_runs() -> None:
    model = Outer()
    seen = result_inside(model, "inner.eye", lambda: model(PROMPT, PIXELS))
    assert torch.equal(seen, model.inner.eye(PIXELS))
    with pytest.raises(TypeError):
        model(PROMPT, PIXELS)


class WithMethod(nn.Module):
    """Makes rows in a method of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Sees()

    def rows(self, pixels: Tensor) -> list[Tensor]:
        return list(self.inner.eye(pixels) * 2)

    def forward(self, pixels: Tensor) -> Tensor:
        rows = torch.cat(self.rows(pixels))
        raise AssertionError(rows.shape)


def test_methods_are_watched_and_runs_end_at_them() -> None:
    model = WithMethod()
    seen = result_inside(model, "", lambda: model(PIXELS), "rows")
    assert torch.equal(torch.stack(seen), model.inner.eye(PIXELS) * 2)

    def run() -> None:
        with pytest.raises(AssertionError):
            model(PIXELS)

    inside, made = record_inner(model, run, ("inner.eye",), methods=[EntryPoint("", "rows")])[::-1]
    assert (made.path, made.method, inside.path) == ("", "rows", "inner.eye")
    assert torch.equal(made.given["pixels"], PIXELS)
    assert torch.equal(made.result["1"], inside.result[""][1] * 2)
    assert "rows" not in vars(model)  # as before


def test_a_graph_ends_at_a_result() -> None:
    model = Outer()

    class Ends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, tokens: Tensor, pixels: Tensor) -> Tensor:
            seen: Tensor = result_inside(
                self.model, "inner.eye", lambda: self.model(tokens, pixels)
            )
            return seen

    made = torch.export.export(Ends(), (PROMPT, PIXELS), strict=False).module()
    assert torch.equal(made(PROMPT, PIXELS * 3), model.inner.eye(PIXELS * 3))


def test_what_is_not_called_gives_nothing() -> None:
    model = Sees()
    with pytest.raises(LookupError, match=r"eye\.1 is not called"):
        result_inside(model, "eye.1", lambda: model.table(PROMPT))


def test_an_error_before_the_result_stays_one() -> None:
    model = Sees()
    with pytest.raises(ValueError, match="wrong"):
        result_inside(model, "eye", lambda: int("wrong"))


def test_an_argument_is_given_instead() -> None:
    model = Sees()
    rows = torch.randn(2, 4, WIDTH)
    with given_instead(model.reader, {"rows": rows}):
        assert torch.equal(model(PROMPT, pixels=PIXELS), model.reader(rows=rows))
    assert not torch.equal(model(PROMPT, pixels=PIXELS), model.reader(rows=rows))
