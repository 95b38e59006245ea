"""A recorded call as a function of the tensors that it reads."""

from __future__ import annotations

from functools import partial

import torch

from awqc.recording.flat import flat_call
from awqc.recording.loop import Loop
from awqc.recording.outermost import record_outermost
from tests.recording.toys import Toy


def loops() -> tuple[Toy, list[Loop]]:
    model = Toy()
    runs = [
        record_outermost(model, partial(model.generate, ids, 4))
        for ids in (torch.arange(10).reshape(2, 5), torch.arange(9).reshape(3, 3))
    ]
    return model, [Loop.of(run[1:]) for run in runs]


def test_inputs_that_are_not_read_are_made_inside() -> None:
    model, (loop, other) = loops()
    outputs = ("logits", *loop.states)
    call, read = flat_call(
        model.forward, loop.later.arguments, outputs, [loop.later.before, other.later.before]
    )
    # The encoder's states were used by the first call; of the mask nothing is used at all.
    assert read == ("tokens", "cache.own.0.keys", "cache.other.0.keys")
    assert call.unread["mask"] == (("tokens", 0), ("cache.other.0.keys", 1))
    with torch.no_grad():
        made = call({path: other.later.before[path] for path in read})
    assert torch.equal(made["logits"], other.later.result["logits"])
    assert torch.equal(made["cache.own.0.keys"], other.later.after["cache.own.0.keys"])


def test_what_a_first_call_makes_once_needs_no_tokens() -> None:
    model, (loop, other) = loops()
    call, read = flat_call(
        model.forward, loop.first.arguments, loop.once, [loop.first.before, other.first.before]
    )
    assert read == ("encoded.states",)
    with torch.no_grad():
        made = call({"encoded.states": other.first.before["encoded.states"]})
    assert torch.equal(made["cache.other.0.keys"], other.first.after["cache.other.0.keys"])


def test_a_call_leaves_what_was_recorded_as_it_is() -> None:
    model, (loop, _) = loops()
    call, _ = flat_call(model.forward, loop.later.arguments, ("logits",), [loop.later.before])
    with torch.no_grad():
        first, again = call(loop.later.before), call(loop.later.before)
    assert torch.equal(first["logits"], again["logits"])


def test_what_fails_with_other_values_is_read() -> None:
    """As rows that name places in a table."""
    table = torch.nn.Embedding(3, 2)
    given = {"places": torch.tensor([[0.0, 2.0]]), "mask": torch.ones(1, 2)}

    def forward(places: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"rows": table(places.long())}

    _, read = flat_call(forward, dict(given), ("rows",), [given])
    assert read == ("places",)
