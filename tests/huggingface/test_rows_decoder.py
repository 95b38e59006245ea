"""What a decoder is given beside rows, found by what agrees."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor

from awqc.artifacts.image_positions import ImagePositions
from awqc.errors import CaptureError
from awqc.huggingface.prompted_run import PromptedRun
from awqc.huggingface.rows_decoder import Form, choose_form, found_layout, kinds_of
from awqc.kv_cache import Kinds
from awqc.recording.merge import Merge

IMAGE, WIDTH = 7, 4
TOKENS = torch.tensor([[1, IMAGE, IMAGE, 2, 3]])
SHAPES = {(0, "key"): (1, None, WIDTH), (0, "value"): (1, None, WIDTH)}
KINDS: Kinds = {"token_type_ids": (1, 0)}


class Decoder:
    """Sums rows, weighted by what it ``reads`` of ``positions`` and ``kinds``."""

    def __init__(self, reads: str) -> None:
        self.reads = reads

    def __call__(
        self,
        rows: Tensor,
        mask: Tensor,
        positions: Tensor | None,
        past: Mapping[str, Tensor],
        **besides: Tensor,
    ) -> tuple[Tensor, ...]:
        seen = past["0_key"].shape[2]
        order = torch.arange(seen, mask.shape[1])[None] if positions is None else positions
        if order.ndim == 3:
            order = order[-1]  # the columns of patches
        if self.reads == "layout":
            order = order // 2
        weight = 1.0 + (order if self.reads != "rows" else 0 * order)
        if self.reads == "kinds" and besides:
            weight = weight + 10 * besides["token_type_ids"][:, seen:]
        keys = torch.cat([past["0_key"], (rows * weight[..., None])[:, None]], dim=2)
        return keys.sum(dim=(1, 2))[:, None], keys, keys


def run(reads: str, besides: Kinds, positions: Tensor | None = None) -> PromptedRun:
    """As `generate` calls a decoder that ``reads`` that."""
    drawn = torch.Generator().manual_seed(0)
    merged = torch.randn(1, 5, WIDTH, generator=drawn)
    following = [torch.randn(1, 1, WIDTH, generator=drawn) for _ in range(2)]
    decoder, logits = Decoder(reads), []
    past = {name: torch.zeros(1, 1, 0, WIDTH) for name in ("0_key", "0_value")}
    tokens = TOKENS
    for step, rows in enumerate((merged, *following)):
        if step:
            tokens = torch.cat([tokens, torch.ones_like(tokens[:, :1])], dim=1)
        kinds = kinds_of(besides, tokens == IMAGE)
        given = None
        if positions is not None:
            given = positions[..., tokens.shape[1] - rows.shape[1] : tokens.shape[1]]
        made, keys, values = decoder(rows, torch.ones_like(tokens), given, past, **kinds)
        past = {"0_key": keys, "0_value": values}
        logits.append(made[:, -1])
    merge = Merge("embed", "eye", "", "decoder", "rows", IMAGE, 1.0)
    return PromptedRun(
        {}, merge, TOKENS, merged, tuple(logits), tuple(following), besides, None, "", positions
    )


@pytest.mark.parametrize(
    ("reads", "besides", "order", "wanted"),
    [
        ("rows", {}, False, Form(False, {})),
        ("positions", {}, True, Form(True, {})),
        ("positions", KINDS, True, Form(True, {})),  # which it is not given, since it needs none
        ("kinds", KINDS, True, Form(True, KINDS)),
    ],
)
def test_the_first_form_that_agrees_counts(
    reads: str, besides: Kinds, order: bool, wanted: Form
) -> None:
    found = choose_form(Decoder(reads), run(reads, besides), SHAPES, order, "model")
    assert found == wanted


def test_a_decoder_that_reads_more_is_refused() -> None:
    """As where positions follow the layout of an image."""
    with pytest.raises(CaptureError, match=r"model: given the rows that decoder takes \(rows\)"):
        choose_form(Decoder("positions"), run("layout", {}), SHAPES, True, "model")


LAYOUT = ImagePositions(np.array([[0, 0], [0, 2]]), ordered=1)
"""Of an image of two patches; the first row numbers tokens by their order."""


def test_positions_may_follow_the_layout_of_images() -> None:
    told = torch.cat([TOKENS == IMAGE, torch.zeros(1, 2, dtype=torch.bool)], dim=1)
    made = run("positions", {}, torch.from_numpy(LAYOUT.of_tokens(told.numpy())))
    assert torch.equal(made.images, told)
    layout = found_layout([made, made])
    form = choose_form(Decoder("positions"), made, SHAPES, True, "model", layout)
    assert form.layout is not None
    assert (form.positions, form.besides, form.layout.rows) == (True, {}, 2)
    order = form.order(told, 3)
    assert order is not None
    assert order[1].tolist() == [[4, 5, 6, 7]]
    with pytest.raises(CaptureError, match="follow no layout of images that repeats"):
        choose_form(Decoder("positions"), made, SHAPES, True, "model")


def test_numbers_tell_images_from_others() -> None:
    made = kinds_of({"kinds": (5, 2)}, TOKENS == IMAGE)
    assert made["kinds"].tolist() == [[2, 5, 5, 2, 2]]
