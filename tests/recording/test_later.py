"""Rows that a decoder adds behind its first layers, in the places of images."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from awqc.recording.later import AllMarked, Later, put_in_places
from awqc.recording.merge import Merge
from awqc.recording.structures import leaves
from tests.recording.toys import PROMPT, WIDTH, Sees

PIXELS = torch.linspace(-1, 1, 16).reshape(2, 2, 4)


class Stacked(Sees):
    """Its eye makes rows for two later layers, which the reader adds where images are."""

    def __init__(self) -> None:
        super().__init__()
        self.eye: Any = Eye()
        self.reader: Any = Reader()

    def forward(self, tokens: Tensor, *, pixels: Tensor) -> Tensor:
        seen = self.eye(pixels)
        later = [rows.flatten(0, 1) for rows in seen["later"]]
        merged = self.merge(tokens, self.table(tokens), seen["rows"])
        logits: Tensor = self.reader(merged, tokens == self.IMAGE, later)
        return logits


class Eye(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, WIDTH) for _ in range(3))

    def forward(self, pixels: Tensor) -> dict[str, Any]:
        rows = [layer(pixels) for layer in self.layers]
        return {"rows": rows[0], "later": rows[1:]}


class Reader(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(2))

    def forward(self, rows: Tensor, marks: Tensor, later: list[Tensor]) -> Tensor:
        for layer, more in zip(self.layers, later, strict=True):
            rows = layer(rows).clone()
            own = rows[marks, :] + more
            rows[marks.to(rows.device), :] = own
        return rows


def test_they_are_found_beside_those_that_are_put_in() -> None:
    model = Stacked()
    merge = Merge.of(model, lambda: model(PROMPT, pixels=PIXELS), PROMPT, "model")
    assert (merge.source, merge.made) == ("eye", "rows")
    assert merge.later == Later((("later.0", "later.0"), ("later.1", "later.1")), ("marks",))
    assert merge.token == Sees.IMAGE
    rows = merge.later_rows(leaves(model.eye(PIXELS)))
    assert rows is not None
    assert rows.shape == (int((PROMPT == Sees.IMAGE).sum()), 2 * WIDTH)


def test_of_others_there_are_none() -> None:
    model = Sees()
    merge = Merge.of(model, lambda: model(PROMPT, pixels=PIXELS), PROMPT, "model")
    assert merge.later_rows(leaves(model.eye(PIXELS))) is None


def test_a_graph_is_given_them_for_all_tokens() -> None:
    """Zeros where there is no image; then it holds for other numbers of tokens."""
    model = Stacked()
    places = PROMPT == Sees.IMAGE
    later = Later.of({"later.0": PIXELS, "marks": places}, {}, places)
    assert later == Later()
    later = Later((("later.0", "a"), ("later.1", "b")), ("marks",))
    features = torch.randn(int(places.sum()), 2 * WIDTH)
    rows = torch.randn(*PROMPT.shape, WIDTH)
    wanted = model.reader(rows, places, list(features.chunk(2, dim=-1)))

    class Graph(nn.Module):
        def forward(self, rows: Tensor, more: Tensor) -> Tensor:
            marks = torch.ones(rows.shape[:2], dtype=torch.bool)
            with AllMarked(marks):
                made: Tensor = model.reader(rows, **later.arguments(more, marks))
            return made

    varying = {1: torch.export.Dim.DYNAMIC}
    graph = torch.export.export(
        Graph(), (rows, put_in_places(features, places)), dynamic_shapes=(varying, varying)
    ).module()
    assert torch.allclose(graph(rows, put_in_places(features, places)), wanted, atol=1e-6)
    none = torch.zeros(2, 1, 2 * WIDTH)
    nothing = [torch.zeros(0, WIDTH)] * 2
    text = model.reader(rows[:, :1], torch.zeros(2, 1, dtype=torch.bool), nothing)
    assert torch.allclose(graph(rows[:, :1], none), text, atol=1e-6)
