"""How a model that speaks is run to be compiled: by its likeliest tokens, so many at most; and what
it must be given beside a text, as far as that follows from its configuration."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from awqc.errors import spelled
from awqc.huggingface.speaker import Speaker

CERTAIN = {"do_sample": False, "temperature": 1.0, "num_beams": 1}
"""Settings with which the same text is spoken alike."""
MOST = "max_new_tokens"
VECTORS, SIZE = ("_embedding", "_embeddings"), "_embedding_dim"
"""How arguments that take a vector end, and what the configuration calls its size."""
LANGUAGE, TABLES = "tgt_lang", "lang"
"""The argument that takes a language, and what tables of languages have in their names."""


def without_chance(speaker: Speaker) -> None:
    """Let ``speaker`` take the likeliest token wherever it would draw one."""
    for settings in _all_settings(speaker):
        settings.update({key: value for key, value in CERTAIN.items() if key in settings})


def limits(speaker: Speaker) -> Callable[[int, float], None]:
    """What lets ``speaker`` make so many tokens at most, wherever it makes one after another.

    Of that, or of fewer that it makes by itself, a share alone.
    """
    usual = [(settings, settings[MOST]) for settings in _all_settings(speaker) if MOST in settings]

    def limit(most: int, share: float) -> None:
        for settings, own in usual:
            settings[MOST] = max(1, round(share * (most if own is None else min(most, own))))

    return limit


def made_up(speaker: Speaker, seed: int) -> dict[str, Any]:
    """What ``speaker`` takes beside a text and has no usual value for, made up.

    A vector, such as that of a voice, has the size that the configuration tells; of languages the
    first counts that the tables of how it generates know.
    """
    drawn = torch.Generator().manual_seed(seed)
    given: dict[str, Any] = {}
    for name in speaker.taken:
        size = _vector_size(speaker.model.config, name)
        if size is not None:
            given[name] = torch.randn(1, size, generator=drawn)
    languages = _languages(speaker)
    if LANGUAGE in speaker.taken and languages:
        given[LANGUAGE] = languages[0]
    return given


def told_of(given: Mapping[str, Any]) -> list[str]:
    """What to tell of what is made up."""
    return [
        f"{name} is made up ({_worded(value)}); give some of yours in a .jsonl file, beside the "
        f'"text" of each line ({spelled("calib")})'
        for name, value in given.items()
    ]


def _all_settings(speaker: Speaker) -> Iterator[dict[str, Any]]:
    """The attributes of everything that says how a model in ``speaker`` generates."""
    seen: set[int] = set()
    for module in speaker.model.modules():
        waiting = [getattr(module, "generation_config", None)]
        while waiting:
            found = waiting.pop()
            settings = found if isinstance(found, dict) else getattr(found, "__dict__", None)
            if settings is None or id(settings) in seen:
                continue
            seen.add(id(settings))
            yield settings
            waiting += list(settings.values())


def _vector_size(config: Any, name: str) -> int | None:
    stem = next((name.removesuffix(end) for end in VECTORS[::-1] if name.endswith(end)), None)
    size = None if stem is None else getattr(config, f"{stem}{SIZE}", None)
    return size if type(size) is int and size > 0 else None


def _languages(speaker: Speaker) -> list[str]:
    """Languages that are in all tables of them."""
    settings = getattr(speaker.model, "generation_config", None)
    tables = [
        value
        for name, value in vars(settings or object).items()
        if TABLES in name and isinstance(value, Mapping)
    ]
    if not tables:
        return []
    return [key for key in tables[0] if all(key in table for table in tables)]


def _worded(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{value.numel()} random numbers"
    return repr(value)
