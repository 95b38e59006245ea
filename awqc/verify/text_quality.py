"""How well logits predict a text, and how far they are from another model's."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

ROWS = 256
"""Predictions that are judged at once, at most."""
ELEMENTS = 2**21
"""Logits that are judged at once: several float32 tensors of that size are there for a moment."""


@dataclass
class TextQuality:
    """Sums over tokens; each position predicts the token after it.

    Attributes:
        tokens: predictions that were judged.
        loss: sum of negative log-likelihoods, in nats.
        compared: predictions that were compared with a reference.
        divergence: sum of KL(reference || these logits), in nats.
        agreed: comparisons in which the likeliest token is the same.
    """

    tokens: int = 0
    loss: float = 0.0
    compared: int = 0
    divergence: float = 0.0
    agreed: int = 0

    def add(
        self, logits: Tensor, ids: Tensor, mask: Tensor, reference: Tensor | None = None
    ) -> None:
        """Take in logits ``(batch, tokens, vocabulary)`` for ``ids`` ``(batch, tokens)``.

        ``mask`` is 0 on padding; ``reference`` holds another model's logits. Tokens that have none,
        such as that of an image, are nothing to predict.
        """
        judged = (mask[:, 1:] != 0) & (mask[:, :-1] != 0) & (ids[:, 1:] < logits.shape[-1])
        rows, places = judged.nonzero(as_tuple=True)
        count = max(1, min(ROWS, ELEMENTS // max(1, logits.shape[-1])))
        for some, at in zip(rows.split(count), places.split(count), strict=True):
            targets = ids[some, at + 1]
            scores = torch.log_softmax(logits[some, at].float(), dim=-1)
            self.loss -= float(scores.gather(1, targets[:, None]).sum())
            self.tokens += len(scores)
            if reference is not None:
                self._compare(scores, torch.log_softmax(reference[some, at].float(), dim=-1))

    def _compare(self, scores: Tensor, wanted: Tensor) -> None:
        self.divergence += float((wanted.exp() * (wanted - scores)).sum())
        self.agreed += int((scores.argmax(-1) == wanted.argmax(-1)).sum())
        self.compared += len(scores)

    @property
    def perplexity(self) -> float:
        """Exponential of the mean loss."""
        return math.exp(min(self.loss / max(self.tokens, 1), 700))

    def as_dict(self) -> dict[str, Any]:
        """Perplexity and, where there was a reference, KL divergence and top-1 agreement."""
        measured: dict[str, Any] = {"tokens": self.tokens, "perplexity": self.perplexity}
        if self.compared:
            measured["kl_divergence"] = self.divergence / self.compared
            measured["top1_agreement"] = self.agreed / self.compared
        return measured
