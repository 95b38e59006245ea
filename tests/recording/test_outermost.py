"""Calls from outside of all modules."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from awqc.errors import CaptureError
from awqc.recording.entries import EntryPoint
from awqc.recording.outermost import record_entries, record_outermost
from tests.recording.toys import IDS, Toy


def test_calls_from_outside_are_recorded_in_order() -> None:
    model = Toy()
    calls = record_outermost(model, lambda: model.generate(IDS, 3))
    assert [call.path for call in calls] == ["encoder", "", "", ""]
    assert list(calls[0].arguments) == ["ids", "mask"]
    assert list(calls[0].result) == ["states"]
    assert not model._forward_hooks
    assert not model.encoder._forward_pre_hooks


def test_what_flows_is_the_same_tensor() -> None:
    model = Toy()
    encoder, first, second, _ = record_outermost(model, lambda: model.generate(IDS, 3))
    assert first.before["encoded.states"] is encoder.result["states"]
    assert "cache.own.0.keys" not in first.before  # as it was before the call
    assert second.before["cache.own.0.keys"] is first.after["cache.own.0.keys"]
    assert second.after["cache.own.0.keys"].shape[1] == 2


def test_hooks_go_where_the_run_fails() -> None:
    model = Toy()

    def fails() -> None:
        model.encoder(IDS)  # lacks the mask

    with pytest.raises(TypeError):
        record_outermost(model, fails)
    assert not model.encoder._forward_pre_hooks
    assert not model._forward_hooks


def test_tensors_that_are_written_into_later_are_told_and_copied() -> None:
    model = nn.Linear(2, 2)

    def run() -> None:
        x = torch.zeros(1, 2)
        model(x)
        x[0, 0] = 5

    (call,) = record_entries({"": model}, [EntryPoint("")], run)
    assert not call.intact
    (call,) = record_entries({"": model}, [EntryPoint("")], run, [EntryPoint("")])
    assert call.intact
    assert call.before["input"].tolist() == [[0.0, 0.0]]


class Wants(nn.Module):
    def forward(self, x: Tensor, mask: Tensor | None, more: Tensor | None = None) -> Tensor:
        return x if mask is None else x * mask


def test_none_stays_where_an_argument_must_be_given() -> None:
    model = Wants()
    (call,) = record_entries({"": model}, [EntryPoint("")], lambda: model(torch.ones(1), None))
    assert list(call.arguments) == ["x", "mask"]


class Writes(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.add_(1)


def test_a_call_that_writes_into_its_input_is_refused() -> None:
    model = Writes()
    with pytest.raises(CaptureError, match="writes into x"):
        record_outermost(model, lambda: model(torch.zeros(3)))


def test_it_may_where_that_is_known() -> None:
    """As where a decoder keeps a state that does not grow."""
    model = Writes()
    (call,) = record_outermost(model, lambda: model(torch.zeros(3)), writing=True)
    assert torch.equal(call.answer, torch.ones(3))
