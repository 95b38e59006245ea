"""Batches that a fused decoder reads one row at a time."""

from __future__ import annotations

import numpy as np
import pytest

from awqc.runtimes.row_by_row import parts_of

FEEDS = {
    "inputs_embeds": np.arange(3 * 2 * 4).reshape(3, 2, 4),
    "attention_mask": np.ones((3, 7)),
    "past_key_values.0.key": np.ones((3, 2, 5, 8)),
    "logits_start": np.array(-1),
}


@pytest.mark.parametrize("several", [False, True], ids=["one position", "several positions"])
def test_each_row_gets_what_is_its_own(several: bool) -> None:
    """Where a token has several positions, there are as many as rows here."""
    rows = np.arange(6).reshape(3, 2)
    positions = np.stack([rows, rows + 10, rows + 20]) if several else rows
    parts = parts_of({**FEEDS, "position_ids": positions})
    assert len(parts) == 3
    for row, part in enumerate(parts):
        assert np.array_equal(part["inputs_embeds"], FEEDS["inputs_embeds"][row : row + 1])
        assert part["logits_start"].shape == ()
        wanted = positions[..., row : row + 1, :]
        assert np.array_equal(part["position_ids"], wanted)


def test_one_token_a_row_goes_at_once() -> None:
    feeds = {**FEEDS, "position_ids": np.full((3, 1), 5)}
    assert len(parts_of(feeds)) == 1
