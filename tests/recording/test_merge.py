"""Rows of images among those of tokens, found in what flows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from awqc.errors import CaptureError
from awqc.recording.entries import EntryPoint
from awqc.recording.merge import Merge
from awqc.recording.structures import leaves
from tests.recording.toys import PROMPT, WIDTH, Sees

PIXELS = torch.linspace(-1, 1, 16).reshape(2, 2, 4)


def found(model: Sees, tokens: Tensor = PROMPT) -> Merge:
    return Merge.of(model, lambda: model(tokens, pixels=PIXELS), tokens, "model")


def test_it_is_told_which_modules_make_rows_and_which_one_takes_them() -> None:
    assert found(Sees()) == Merge("table", "eye", "", "reader", "rows", Sees.IMAGE, 1.0)


def test_rows_may_be_put_in_times_a_number() -> None:
    assert found(Sees(factor=0.25)).factor == pytest.approx(0.25)


def test_rows_may_be_written_into_those_of_tokens() -> None:
    """Then what the table gave is no longer what it was."""

    class Writes(Sees):
        def merge(self, tokens: Tensor, rows: Tensor, seen: Tensor) -> Tensor:
            rows[tokens == self.IMAGE] = seen.flatten(0, 1)
            return rows

    assert found(Writes()) == found(Sees())


def test_a_table_may_be_asked_for_another_token_in_the_place_of_an_image() -> None:
    """As where the token of images is beyond the table."""

    class Beyond(Sees):
        IMAGE = 99

        def forward(self, tokens: Tensor, *, pixels: Tensor) -> Tensor:
            rows = self.table(torch.where(tokens == self.IMAGE, 0, tokens))
            logits: Tensor = self.reader(rows=self.merge(tokens, rows, self.eye(pixels)))
            return logits

    tokens = torch.where(PROMPT == Sees.IMAGE, Beyond.IMAGE, PROMPT)
    assert found(Beyond(), tokens).token == Beyond.IMAGE


def test_rows_may_be_made_by_a_method() -> None:
    """As where a row of its own stands behind those of each image; of these there is a list."""

    class Ends(Sees):
        def __init__(self) -> None:
            super().__init__()
            self.end = nn.Parameter(torch.ones(WIDTH))

        def seen(self, pixels: Tensor) -> dict[str, list[Tensor]]:
            seen = self.eye(pixels)
            return {"rows": [torch.cat([rows[:1], self.end[None]]) for rows in seen]}

        def forward(self, tokens: Tensor, *, pixels: Tensor) -> Tensor:
            rows = torch.cat(self.seen(pixels)["rows"])
            merged = self.merge(tokens, self.table(tokens), rows)
            logits: Tensor = self.reader(rows=merged)
            return logits

    model = Ends()
    merge = found(model)
    assert merge == Merge("table", "", "rows", "reader", "rows", Sees.IMAGE, 1.0, "seen")
    assert merge.maker == EntryPoint("", "seen")
    made = merge.rows(leaves(model.seen(PIXELS)))
    assert torch.equal(made, torch.cat(model.seen(PIXELS)["rows"]))


def test_another_token_may_have_a_row_of_its_own_beside_images() -> None:
    """As a mark in front of an image, which is the same for all images."""

    class Marked(Sees):
        def __init__(self) -> None:
            super().__init__()
            self.mark = nn.Parameter(torch.ones(WIDTH))

        def merge(self, tokens: Tensor, rows: Tensor, seen: Tensor) -> Tensor:
            merged = super().merge(tokens, rows, seen)
            return torch.where((tokens == PROMPT[0, 0])[..., None], self.mark, merged)

    merge = found(Marked())
    assert merge.replaced
    assert merge == replace(found(Sees()), replaced=True)


def test_what_is_called_for_other_rows_too_is_not_what_makes_those_of_images() -> None:
    """As where pieces of an image are tokens, whose rows the same table makes."""

    class Codes(Sees):
        def seen(self, pixels: Tensor) -> Tensor:
            codes = self.eye(pixels).argmax(dim=-1)
            rows: Tensor = self.table(codes)
            return rows

        def forward(self, tokens: Tensor, *, pixels: Tensor) -> Tensor:
            merged = self.merge(tokens, self.table(tokens), self.seen(pixels))
            logits: Tensor = self.reader(rows=merged)
            return logits

    assert found(Codes()).maker == EntryPoint("", "seen")


def test_what_asks_rows_for_their_type_alone_does_not_take_them() -> None:
    """As what makes tables of positions, before the first layer."""

    class Places(nn.Module):
        def forward(self, *, rows: Tensor) -> Tensor:
            return torch.arange(rows.shape[1], dtype=rows.dtype)

    class Told(Sees):
        def __init__(self) -> None:
            super().__init__()
            self.places = Places()

        def merge(self, tokens: Tensor, rows: Tensor, seen: Tensor) -> Tensor:
            merged = super().merge(tokens, rows, seen)
            self.places(rows=merged)
            return merged

    assert found(Told()) == found(Sees())


class Ignores(Sees):
    def merge(self, tokens: Tensor, rows: Tensor, seen: Tensor) -> Tensor:
        return rows


class Mixes(Sees):
    """A row of its own stands behind those of each image."""

    def __init__(self) -> None:
        super().__init__()
        self.end = nn.Parameter(torch.ones(WIDTH))

    def merge(self, tokens: Tensor, rows: Tensor, seen: Tensor) -> Tensor:
        ended = torch.cat([seen[:, :1], self.end.expand(len(seen), 1, -1)], dim=1)
        return super().merge(tokens, rows, ended)


class Everywhere(Sees):
    """Rows of images stand at a token that also stands for itself."""

    def merge(self, tokens: Tensor, rows: Tensor, seen: Tensor) -> Tensor:
        places = torch.zeros(tokens.shape, dtype=torch.bool)
        places[:, :2] = True
        return rows.masked_scatter(places[..., None], seen)


REFUSED: dict[str, tuple[Callable[[], Sees], str]] = {
    "no image reaches the text": (Ignores, "no module is given rows of tokens with other rows"),
    "a row is no module's": (Mixes, "of the argument rows of reader 4 rows stand at the token 7"),
    "several tokens": (Everywhere, "4 rows are none of tokens, at the tokens 1, 3, 7"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_put_in_otherwise_is_refused(case: str) -> None:
    make, message = REFUSED[case]
    with pytest.raises(CaptureError, match=message):
        found(make())
