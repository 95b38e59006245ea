"""Perplexity, divergence and agreement of logits, against what torch computes."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import cross_entropy, kl_div

from awqc.verify.text_quality import ROWS, TextQuality


def test_it_measures_what_torch_does() -> None:
    logits, reference = torch.randn(2, 2, ROWS, 11) * 3
    ids = torch.randint(11, (2, ROWS))
    score = TextQuality()
    score.add(logits, ids, torch.ones_like(ids), reference)
    now, wanted = (value[:, :-1].reshape(-1, 11) for value in (logits, reference))
    loss = float(cross_entropy(now, ids[:, 1:].reshape(-1)))
    apart = kl_div(
        now.log_softmax(-1), wanted.log_softmax(-1), log_target=True, reduction="batchmean"
    )
    same = float((now.argmax(-1) == wanted.argmax(-1)).float().mean())
    measured = score.as_dict()
    assert measured["tokens"] == 2 * (ROWS - 1)
    assert measured["perplexity"] == pytest.approx(math.exp(loss), rel=1e-5)
    assert measured["kl_divergence"] == pytest.approx(float(apart), rel=1e-5)
    assert measured["top1_agreement"] == pytest.approx(same)


def test_padding_is_neither_judged_nor_judges() -> None:
    ids = torch.randint(11, (1, 8))
    logits = torch.randn(1, 8, 11)
    mask = torch.tensor([[1, 1, 1, 1, 1, 0, 0, 0]])
    padded, alone = TextQuality(), TextQuality()
    padded.add(logits, ids, mask)
    alone.add(logits[:, :5], ids[:, :5], mask[:, :5])
    assert padded.as_dict() == alone.as_dict()
    assert padded.tokens == 4


def test_nothing_compared_is_not_reported() -> None:
    assert TextQuality().as_dict() == {"tokens": 0, "perplexity": 1.0}


def test_a_token_without_logits_is_nothing_to_predict() -> None:
    """As that of an image, which stands in texts and is never made."""
    logits, ids = torch.zeros(1, 4, 5), torch.tensor([[1, 5, 2, 3]])
    score = TextQuality()
    score.add(logits, ids, torch.ones_like(ids))
    assert score.tokens == 2
    assert score.perplexity == pytest.approx(5)
