"""What a model's outputs say, in the terms of its task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from awqc.huggingface.sentence_files import SENTENCE
from awqc.running.pooling import Pooling

Array = np.ndarray[Any, Any]
Outputs = Mapping[str, Array]
"""Outputs of one sample, by name."""

MEAN = Pooling(("mean",))
POOLED = (SENTENCE, "_embeds", "pooler_output")
"""How names of outputs end that are the vector of a sample, the best first."""
TOP = 5
"""Labels or words that are told, the likeliest first."""


@dataclass(frozen=True)
class Answer:
    """What a model says of one sample.

    Attributes:
        text: for people, in a line or a few.
        content: the same for programs.
    """

    text: str
    content: Any


def classes(outputs: Outputs, names: Mapping[int, str]) -> Answer:
    """The likeliest of ``names`` with their probabilities."""
    shares = _softmax(outputs["logits"].reshape(-1))
    ranked = [int(index) for index in np.argsort(-shares)[:TOP]]
    found = [{"label": names.get(i, str(i)), "score": float(shares[i])} for i in ranked]
    return Answer("  ".join(f"{one['label']} {one['score']:.1%}" for one in found), found)


def tokens(outputs: Outputs, names: Mapping[int, str], words: list[str]) -> Answer:
    """For each of ``words``, as the tokenizer cut them, the likeliest of ``names``."""
    chosen = outputs["logits"].argmax(axis=-1).reshape(-1)
    found = [
        {"token": word, "label": names.get(int(index), str(index))}
        for word, index in zip(words, chosen, strict=False)
    ]
    return Answer("  ".join(f"{one['token']}/{one['label']}" for one in found), found)


def transcript(outputs: Outputs, decode: Callable[[list[int]], str]) -> Answer:
    """The text of the likeliest token at each time (connectionist temporal classification)."""
    text = decode(outputs["logits"].argmax(axis=-1).reshape(-1).tolist())
    return Answer(text, text)


def words_for_masks(outputs: Outputs, ids: Array, mask: int, word: Callable[[int], str]) -> Answer:
    """The likeliest words at each place of the token ``mask`` in ``ids``."""
    logits = outputs["logits"].reshape(-1, outputs["logits"].shape[-1])
    found = []
    for place in np.flatnonzero(ids.reshape(-1) == mask):
        shares = _softmax(logits[place])
        ranked = np.argsort(-shares)[:TOP]
        found.append([{"word": word(int(i)), "score": float(shares[i])} for i in ranked])
    lines = ["  ".join(f"{one['word']} {one['score']:.1%}" for one in place) for place in found]
    return Answer("\n".join(lines) or "the text has no mask token", found)


def embedding(outputs: Outputs, mask: Array | None, pooling: Pooling | None = None) -> Answer:
    """One vector, as ``pooling`` says; else the projected or pooled output, or else the mean."""
    vectors = {name: value for name, value in outputs.items() if value.size == max(value.shape)}
    pooled = next((vectors[name] for end in POOLED for name in vectors if name.endswith(end)), None)
    if SENTENCE not in outputs and (pooled is None or pooling is not None):
        states = outputs.get("last_hidden_state", next(iter(outputs.values())))
        pooled = (pooling or MEAN).vector(states, mask)
    vector = [float(number) for number in np.asarray(pooled).reshape(-1)]
    start = ", ".join(f"{number:.4f}" for number in vector[:4])
    return Answer(f"{len(vector)} numbers: [{start}, …]", vector)


def shapes(outputs: Outputs) -> Answer:
    """Size and range of each output."""
    found = {
        name: {
            "shape": list(value.shape), "min": float(value.min()), "max": float(value.max())
        }
        for name, value in outputs.items()
        if value.size
    }  # fmt: skip
    lines = [
        f"{name} {one['shape']}: {one['min']:.4g} to {one['max']:.4g}"
        for name, one in found.items()
    ]
    return Answer("\n".join(lines), found)


def _softmax(logits: Array) -> Array:
    powers = np.exp(logits.astype(np.float64) - logits.max())
    shares: Array = powers / powers.sum()
    return shares
