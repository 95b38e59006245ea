"""How a model that speaks is run, and what it is given beside a text."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from awqc.huggingface.spoken_settings import limits, made_up, told_of, without_chance


def speaker(entry: Any, config: dict[str, Any], settings: Any = None) -> Any:
    """As much of one as counts here."""
    model = nn.Linear(1, 1)
    model.config, model.generation_config = SimpleNamespace(**config), settings  # type: ignore[assignment]  # as models of transformers have it
    return SimpleNamespace(model=model, taken=inspect.signature(entry).parameters)


def test_a_vector_has_the_size_that_the_configuration_tells() -> None:
    def generate(ids: Any, speaker_embeddings: Any = None, other_embedding: Any = None) -> None:
        """Takes a voice."""

    given = made_up(speaker(generate, {"speaker_embedding_dim": 6}), 0)
    assert {name: list(value.shape) for name, value in given.items()} == {
        "speaker_embeddings": [1, 6]
    }
    assert "speaker_embeddings is made up (6 random numbers)" in told_of(given)[0]
    again = made_up(speaker(generate, {"speaker_embedding_dim": 6}), 0)
    assert torch.equal(again["speaker_embeddings"], given["speaker_embeddings"])


def test_a_language_is_one_that_all_tables_know() -> None:
    def generate(ids: Any, tgt_lang: str | None = None) -> None:
        """Takes a language."""

    tables = SimpleNamespace(text_lang_ids={"deu": 1, "eng": 2}, speech_lang_ids={"eng": 1})
    assert made_up(speaker(generate, {}, tables), 0) == {"tgt_lang": "eng"}
    assert made_up(speaker(generate, {}), 0) == {}


def test_the_likeliest_token_is_taken_so_many_times_at_most() -> None:
    inner = {"do_sample": True, "temperature": 0.5, "max_new_tokens": 10}
    own = SimpleNamespace(do_sample=True, max_new_tokens=None, inner=inner)
    made = speaker(lambda: None, {}, own)
    limit = limits(made)
    without_chance(made)
    assert (own.do_sample, inner["do_sample"], inner["temperature"]) == (False, False, 1.0)
    limit(40, 0.5)
    assert (own.max_new_tokens, inner["max_new_tokens"]) == (20, 5)
    limit(8, 1.0)
    assert (own.max_new_tokens, inner["max_new_tokens"]) == (8, 8)
