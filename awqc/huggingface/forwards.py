"""Flat forwards for Hugging Face models: tensors in, tensors out, the cache among them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from awqc.errors import UsageError, spelled
from awqc.huggingface.boxes import boxes_example
from awqc.huggingface.carried import (
    Shape,
    State,
    accepts,
    cache_argument,
    filled_cache,
    parsed,
    reading,
    spelled_state,
    state_of,
)
from awqc.huggingface.config_values import config_value
from awqc.huggingface.sentence_files import SENTENCE
from awqc.huggingface.sentence_modules import LAYERS, ROWS
from awqc.huggingface.tokens import TYPES
from awqc.kv_cache import KEY, MASK, TOKENS, VALUE

BATCH, SEQUENCE, PAST = 2, 3, 5
"""Example sizes: above 1, which torch.export would fix, and different, so that none merge."""


def cached_forward(model: Any) -> Callable[..., tuple[Tensor, ...]]:
    """A forward of a causal LM that takes and returns its cache as plain tensors.

    It returns the logits ``(batch, sequence, vocabulary)`` and then the new cache, in the
    order in which the past was given.
    """
    original, cache_name = model.forward, cache_argument(model)

    def forward(
        input_ids: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor | None = None,
        past_key_values: Mapping[str, Tensor] | None = None,
    ) -> tuple[Tensor, ...]:
        past = {parsed(name): state for name, state in (past_key_values or {}).items()}
        cache = filled_cache(model, past)
        if not any(part in (KEY, VALUE) for _, part in past):  # nothing looks at padding again
            attention_mask = attention_mask[:, -input_ids.shape[1] :]
        extra = {} if position_ids is None else {"position_ids": position_ids}
        with reading(model, cache):
            result = original(
                input_ids=input_ids,
                attention_mask=attention_mask,
                use_cache=True,
                **{cache_name: cache},
                **extra,
            )
        return (result.logits, *(state_of(cache, name) for name in past))

    return forward


def plain_forward(model: Any) -> Callable[..., dict[str, Tensor]]:
    """A forward that returns the tensors of the model's result under the model's own names.

    Where all of them stand in tuples these are ``name_0``, ``name_1``, …
    """
    original = model.forward

    def forward(**inputs: Tensor) -> dict[str, Tensor]:
        result = original(**inputs)
        made = {name: value for name, value in result.items() if isinstance(value, Tensor)}
        return made or {
            f"{name}_{place}": each
            for name, value in result.items()
            if isinstance(value, list | tuple)
            for place, each in enumerate(value)
            if isinstance(each, Tensor)
        }

    return forward


def sentence_forward(model: Any, after: nn.Module) -> Callable[..., dict[str, Tensor]]:
    """A forward that returns vectors of tokens, and the one of a text that ``after`` makes of them.

    ``after`` takes and returns what is known of texts by name, see `sentence_modules`; it becomes
    a part of ``model``.
    """
    original = model.forward
    model.add_module(SENTENCE, after)
    layers = bool(config_value(model.config, "output_hidden_states"))

    def forward(**inputs: Tensor) -> dict[str, Tensor]:
        result = original(**inputs)
        known = {ROWS: result[0], MASK: inputs[MASK]}
        known = after({**known, LAYERS: result.hidden_states} if layers else known)
        return {name: known[name] for name in (ROWS, SENTENCE)}

    return forward


def cached_example(model: Any, shapes: Mapping[State, Shape]) -> dict[str, Any]:
    """Example inputs of `cached_forward`."""
    example: dict[str, Any] = {
        "input_ids": _example_ids(model),
        "attention_mask": torch.ones(BATCH, PAST + SEQUENCE, dtype=torch.long),
    }
    if accepts(model, "position_ids"):
        example["position_ids"] = torch.arange(PAST, PAST + SEQUENCE).repeat(BATCH, 1)
    generator = torch.Generator().manual_seed(0)
    example["past_key_values"] = {
        spelled_state(state): torch.randn(
            BATCH, *(PAST if size is None else size for size in shape), generator=generator
        )
        for state, shape in shapes.items()
    }
    return example


def cache_axes(shapes: Mapping[State, Shape]) -> dict[str, dict[int, str]]:
    """Names of the free axes of the states in `cached_example`, by what capture calls them."""
    return {
        f"past_key_values_{spelled_state(state)}": {
            0: "batch",
            **{axis: "past" for axis, size in enumerate(shape, 1) if size is None},
        }
        for state, shape in shapes.items()
    }


def encoder_example(model: Any) -> dict[str, Any]:
    """Example inputs of an encoder; ``token_type_ids`` only where types exist.

    Raises:
        UsageError: it takes no tokens, or none knows how many there are.
    """
    example = {
        "input_ids": _example_ids(model),
        "attention_mask": torch.ones(BATCH, SEQUENCE, dtype=torch.long),
    }
    if accepts(model, TYPES):
        several = config_value(model.config, "type_vocab_sizes")  # of each token, as of a table
        if isinstance(several, list | tuple):
            example[TYPES] = torch.zeros(BATCH, SEQUENCE, len(several), dtype=torch.long)
        elif (config_value(model.config, "type_vocab_size") or 0) > 1:
            example[TYPES] = torch.zeros(BATCH, SEQUENCE, dtype=torch.long)
    return example | boxes_example(model, example)


def _example_ids(model: Any) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(_vocabulary(model), (BATCH, SEQUENCE), generator=generator)


def _vocabulary(model: Any) -> int:
    """Rows of the table of tokens; where the model does not say which that is, what it promises.

    Raises:
        UsageError: it says nothing, or takes no tokens.
    """
    if not accepts(model, TOKENS):
        names = [name for name in inspect.signature(model.forward).parameters if name != "kwargs"]
        raise UsageError(
            f"{type(model).__name__} reads no text: its forward takes {', '.join(names[:4])}, …. "
            f"Give the task that it is for with {spelled('task')}; where that is none of these, "
            "compile it from Python: awqc.compile(model, example_inputs, calib)"
        )
    try:
        return int(model.get_input_embeddings().weight.shape[0])
    except (NotImplementedError, AttributeError):  # How transformers says that it has none.
        found = config_value(model.config, "vocab_size")
    if isinstance(found, int) and found > 0:
        return found
    raise UsageError(
        f"{type(model).__name__} makes rows of its tokens without a table of them, and its "
        "configuration has no vocab_size, so nothing tells which tokens there are (characters, "
        "perhaps). Compile it from Python: awqc.compile(model, example_inputs, calib), with "
        f"{TOKENS} (samples, tokens) of texts that its tokenizer read"
    )
