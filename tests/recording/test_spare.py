"""Arguments of a loop that a module makes itself, if it is not given them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from awqc.recording.loop import Loop
from awqc.recording.outermost import record_outermost
from awqc.recording.spare import spare_arguments, without


class Decoder(nn.Module):
    """Counts places by what it has read, and adds what it is told besides."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.place = nn.Embedding(9, 4), nn.Embedding(16, 4)

    def forward(
        self, tokens: Tensor, cache: dict[str, Any], places: Tensor | None = None,
        shift: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        past = cache.get("keys")
        seen = 0 if past is None else past.shape[1]
        if places is None:
            places = torch.arange(seen, seen + tokens.shape[1])[None]
        row = self.table(tokens) + self.place(places)
        cache["keys"] = row if past is None else torch.cat([past, row], dim=1)
        logits: Tensor = cache["keys"].sum(dim=1, keepdim=True)
        return logits if shift is None else logits + shift


def test_only_what_changes_nothing_is_spare() -> None:
    model = Decoder()

    def run() -> None:
        cache: dict[str, Any] = {}
        for step in range(3):
            model(
                torch.tensor([[step]]), cache, places=torch.tensor([[step]]),
                shift=torch.tensor([float(step)]),
            )  # fmt: skip

    calls = record_outermost(model, run)
    loop = Loop.of(calls)
    assert set(loop.fresh) == {"tokens", "places", "shift"}
    assert spare_arguments(model.forward, loop) == ("places",)
    plain = without(calls, ("places",))
    assert set(Loop.of(plain).fresh) == {"tokens", "shift"}
    assert plain[1].before["cache.keys"] is calls[1].before["cache.keys"]
    assert "places" in calls[1].arguments  # what was recorded stays
