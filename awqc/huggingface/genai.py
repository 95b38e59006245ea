"""What onnxruntime-genai reads beside the ONNX of a decoder: ``genai_config.json``.

Names and sizes come from the graph; of words and lengths the model's configuration tells.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from awqc.huggingface.config_values import config_value, context_length
from awqc.kv_cache import (
    CONV,
    KEY,
    MASK,
    PAST,
    PLACES,
    POSITIONS,
    RECURRENT,
    SHARED_CACHE,
    VALUE,
    named_state,
    past_name,
    present_name,
)
from awqc.program import Program

GENAI_CONFIG = "genai_config.json"
WORDS = ("bos_token_id", "eos_token_id", "pad_token_id")
SESSION = {"log_id": "onnxruntime-genai", "provider_options": []}
LENGTH = 2048
"""Tokens at most, of a model that does not say how many it can look at."""


def runs_in_genai(program: Program) -> bool:
    """Whether onnxruntime-genai has words for what ``program`` carries.

    It knows keys and values, what a convolution has still to see, and the state of a recurrence; no
    decoder without keys and values, and no convolutions in layers that have these, unless there is
    a recurrence.
    """
    each = list(state_layers(program).values())
    carried = {part for parts in each for part in parts}
    plain = RECURRENT in carried or all(parts in ({KEY, VALUE}, {CONV}) for parts in each)
    return {KEY, VALUE} <= carried <= {KEY, VALUE, CONV, RECURRENT} and plain


def state_layers(program: Program) -> dict[int, set[str]]:
    """What each layer carries that carries anything."""
    found: dict[int, set[str]] = {}
    for name, _ in program.states:
        layer, part = named_state(name)
        found.setdefault(layer, set()).add(part)
    return found


def genai_config(
    program: Program,
    config: Any,
    tokenizer: Any = None,
    told: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The content of ``genai_config.json`` for a program with a cache.

    ``told`` are metadata of the model: whether it counts positions itself, and whether its past and
    present may be one buffer. Sizes come from the graph; the type is genai's general ``decoder``,
    whatever the model. Tokens that are no words of the model are left out: genai refuses the folder
    for them.
    """
    shapes = {spec.name: spec.shape for spec in program.inputs}
    keys = [name for name in shapes if name.startswith(PAST) and name.endswith(f".{KEY}")]
    _, heads, _, width = shapes[keys[0]]
    layers = state_layers(program)
    carried = {part for parts in layers.values() for part in parts}
    counted: dict[str, Any] = {"num_hidden_layers": len(keys)}
    if carried > {KEY, VALUE}:
        counted["num_hidden_layers"] = max(layers) + 1
    if carried == {KEY, VALUE, CONV}:  # states of recurrences are found by their names
        counted["layer_types"] = [
            "conv" if layers[layer] == {CONV} else "full_attention" for layer in sorted(layers)
        ]
    told = told or {}
    taken = ("input_ids", MASK, *(() if told.get(PLACES) == "1" else (POSITIONS,)))
    names = {name: name for name in taken if name in shapes}
    limit = context_length(config) or LENGTH
    return {
        "model": {
            "type": "decoder",
            "context_length": limit,
            **known_words(config, tokenizer),
            "decoder": {
                "session_options": SESSION,
                "filename": "model.onnx",
                "head_size": width,
                "hidden_size": config_value(config, "hidden_size"),
                "num_attention_heads": config_value(config, "num_attention_heads") or heads,
                "num_key_value_heads": heads,
                **counted,
                "inputs": names
                | {f"past_{part}_names": past_name("%d", part) for part in sorted(carried)},
                "outputs": {"logits": program.outputs[0]}
                | {f"present_{part}_names": present_name("%d", part) for part in sorted(carried)},
            },
        },
        "search": greedy(limit, told.get(SHARED_CACHE) == "1"),
    }


def known_words(config: Any, tokenizer: Any = None) -> dict[str, Any]:
    """How many words there are, and which of them begin, end and pad a text."""
    words = config_value(config, "vocab_size")
    ids = {key: _within(_token_id(key, config, tokenizer), words) for key in WORDS}
    if ids["pad_token_id"] is None:
        end = ids["eos_token_id"]
        ids["pad_token_id"] = end[0] if isinstance(end, list) else end
    return {"vocab_size": words} | {key: value for key, value in ids.items() if value is not None}


def greedy(limit: int, shared: bool) -> dict[str, Any]:
    """The likeliest word each time, ``limit`` tokens at most; ``shared``: past and present may be
    one buffer."""
    return {
        "do_sample": False,
        "max_length": limit,
        "num_beams": 1,
        "past_present_share_buffer": shared,
        "temperature": 1.0,
        "top_k": 1,
        "top_p": 1.0,
    }


def _within(token: Any, words: int) -> Any:
    """``token``, or those of a list of them, that a model of ``words`` words can make, if any."""
    if isinstance(token, list):
        return [each for each in token if each < words] or None
    return token if token is not None and token < words else None


def _token_id(key: str, config: Any, tokenizer: Any) -> Any:
    value = config_value(config, key)
    return getattr(tokenizer, key, None) if value is None else value
