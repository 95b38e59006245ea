"""What a transformers configuration says, wherever it says it: one way in for all of awqc.

A model that also sees or hears keeps the numbers of its language model in a part of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from awqc.errors import UsageError

CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len")
PUBLISHED = ("vocab_size", "hidden_size")
"""What ``genai_config.json`` says of a decoder, besides what the graph tells."""


def text_part(config: Any) -> Any:
    """The configuration of the language model; ``config`` itself where it is no part.

    Raises:
        UsageError: there are several.
    """
    try:
        return config.get_text_config(decoder=True)
    except ValueError as error:
        raise UsageError(
            f"config.json ({config.model_type}) describes several language models: {error}. "
            "Save the one that is to be compiled as a model of its own"
        ) from error


def config_value(config: Any, *names: str) -> Any:
    """The first of ``names`` that the model's configuration or its text part has; None: none.

    A number that layers have each for themselves is none of the model's.
    """
    for part in (config, text_part(config)):
        for name in names:
            with suppress(RuntimeError):  # How transformers refuses to tell such a number.
                if (value := getattr(part, name, None)) is not None:
                    return value
    return None


def check_complete(config: Any, where: str) -> None:
    """Refuse a decoder whose files for runners could not be written, before any work.

    Raises:
        UsageError: a number is missing.
    """
    for name in PUBLISHED:
        if config_value(config, name) is None:
            raise UsageError(
                f"{where}: config.json has no {name}, neither for the model nor for its text "
                "part; genai_config.json needs it. Add it to config.json"
            )


def context_length(config: Any) -> int | None:
    """The most tokens that a graph of the model can look at, as far as its configuration says.

    Rotary embeddings that change beyond a length are compiled for what lies below it.
    """
    lengths = [config_value(config, key) for key in CONTEXT_KEYS]
    known = [int(value) for value in lengths if isinstance(value, int) and value > 0][:1]
    return min([*known, *rotary_switches(config)], default=None)


def fewest_places(config: Any) -> int | None:
    """The smallest of the tables of positions that a configuration names in whatever words."""
    named = re.compile(r"max_\w*positions?(_embeddings)?$")
    told = (value for name, value in vars(config).items() if named.match(name))
    return min((each for each in told if type(each) is int and each > 0), default=None)


def rotary_switches(config: Any) -> Iterator[int]:
    """Lengths beyond which rotary embeddings take other frequencies, by `changing_rotary`."""
    part = text_part(config)
    rotary = getattr(part, "rope_parameters", None) or {}
    for each in (rotary, *(rotary.values() if isinstance(rotary, dict) else ())):
        if isinstance(each, dict) and changing_rotary(each.get("rope_type")):
            longest = getattr(part, "max_position_embeddings", None)
            length = each.get("original_max_position_embeddings")
            switch = longest if each["rope_type"] != "longrope" or length is None else length
            if isinstance(switch, int):
                yield switch


def changing_rotary(kind: Any) -> bool:
    """Whether rotary embeddings of this type update themselves by the length of a sequence."""
    return isinstance(kind, str) and (kind == "longrope" or "dynamic" in kind)
