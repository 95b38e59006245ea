"""Models that a caller has in hand: transformers' own objects, and exported programs."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

import awqc
from awqc.errors import UsageError


def test_a_transformers_model_is_compiled_with_the_default_formats() -> None:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=64,
    )  # fmt: skip
    model = BertForSequenceClassification(config).eval()
    batch = {"input_ids": torch.randint(0, 50, (2, 7)), "attention_mask": torch.ones(2, 7).long()}
    found = awqc.compile(model, batch, calib=[batch], effort="fast", bits=8, provider="cpu")
    assert (found.folder / "model.pt2").is_file()
    logits = found.graph_module(**batch).logits
    torch.testing.assert_close(logits, model(**batch).logits, atol=0.02, rtol=0.05)


def test_an_exported_program_is_compiled() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4)), torch.randn(4, 32)
    exported = torch.export.export(model, (x,))
    found = awqc.compile(exported, calib=[(x,)], effort="fast", bits=8, provider="cpu")
    torch.testing.assert_close(found.graph_module(x), model(x), atol=0.02, rtol=0.05)
    with pytest.raises(UsageError, match="an exported program brings its own"):
        awqc.compile(exported, (x,))
