"""Generation that goes in circles: what it repeats tells calibration nothing more."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

LONGEST = 4
"""Tokens of a circle at the most."""
REPEATED = 16
"""Tokens in a row that are those of one circle before."""


class Circling:
    """A criterion of transformers' ``generate`` that ends texts which go in circles.

    What is there before the first new token is a prompt, and may repeat what it likes.
    """

    def __init__(self) -> None:
        self._prompt: int | None = None

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        """Which rows of ``input_ids``, ``(batch, tokens)`` with the newest last, have ended."""
        if self._prompt is None:
            self._prompt = input_ids.shape[1] - 1
        made = input_ids[:, self._prompt :]
        ended = torch.zeros(len(made), dtype=torch.bool, device=made.device)
        for size in range(1, LONGEST + 1):
            if made.shape[1] >= REPEATED + size:
                before = made[:, -REPEATED - size : -size]
                ended |= (made[:, -REPEATED:] == before).all(1)
        return ended
