"""Flat forwards for Hugging Face models: tensors in, tensors out, the cache among them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from awqc.errors import CaptureError, UsageError, spelled
from awqc.huggingface.config_values import config_value
from awqc.huggingface.folder import reporting

BATCH, SEQUENCE, PAST = 2, 3, 5
"""Example sizes: above 1, which torch.export would fix, and different, so that none merge."""

KEY, VALUE = "key", "value"
State = tuple[int, str]
"""A tensor of the cache: the layer's number, and which of the two."""


def accepts(model: Any, name: str) -> bool:
    """Whether the model's forward has a parameter called ``name``."""
    return name in inspect.signature(model.forward).parameters


def cache_argument(model: Any) -> str:
    """What the model's forward calls its cache: ``cache``, or ``past_key_values`` in older code."""
    return "cache" if accepts(model, "cache") else "past_key_values"


def cache_shapes(model: Any, where: str) -> dict[State, tuple[int, int]]:
    """Heads and width of each tensor of the model's cache, found by running one token.

    Raises:
        CaptureError: the model keeps something else than keys and values.
    """
    cache = empty_cache(model, where)
    with torch.no_grad(), reporting(f"{where}: the model did not run with a cache"):
        ids = torch.zeros(1, 1, dtype=torch.long)
        model(input_ids=ids, use_cache=True, **{cache_argument(model): cache})
    shapes: dict[State, tuple[int, int]] = {}
    for index, layer in enumerate(cache.layers):
        for part, tensor in ((KEY, layer.keys), (VALUE, layer.values)):
            if tensor is None:
                continue
            if tensor.ndim != 4:
                raise CaptureError(
                    f"{where}: layer {index} keeps a {part} of shape {tuple(tensor.shape)}; "
                    "(batch, heads, tokens, width) is needed"
                )
            shapes[index, part] = (int(tensor.shape[1]), int(tensor.shape[3]))
    if not shapes:
        raise CaptureError(
            f"{where}: {type(model).__name__} left its cache empty: it keeps its state in a way "
            "of its own, for which one graph cannot be written"
        )
    return shapes


def empty_cache(model: Any, where: str) -> Any:
    """A cache for ``model`` that grows without bound in every layer.

    Layers that look at a window only keep all tokens too: the model's own mask still hides
    what is out of the window, and one graph serves every length.

    Raises:
        CaptureError: layers keep something else than keys and values.
    """
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    cache = DynamicCache(config=model.config)
    for index, layer in enumerate(cache.layers):
        if type(layer) in (DynamicLayer, DynamicSlidingWindowLayer):
            cache.layers[index] = DynamicLayer()
        elif any(hasattr(layer, state) for state in ("keys", "conv_states", "recurrent_states")):
            raise CaptureError(
                f"{where}: layer {index} carries a {type(layer).__name__} from token to token; "
                "only keys and values of attention can be carried. Capture it without a cache: "
                f"{spelled('task', 'feature-extraction')}"
            )
    return cache


def cached_forward(model: Any, where: str) -> Callable[..., tuple[Tensor, ...]]:
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
        cache = empty_cache(model, where)
        past = dict(past_key_values or {})
        for layer in sorted({int(name.partition("_")[0]) for name in past}):
            _fill(cache, layer, past[f"{layer}_{KEY}"], past[f"{layer}_{VALUE}"])
        extra = {} if position_ids is None else {"position_ids": position_ids}
        result = original(
            input_ids=input_ids,
            attention_mask=attention_mask,
            use_cache=True,
            **{cache_name: cache},
            **extra,
        )
        present = [_present(cache.layers, name) for name in past]
        return (result.logits, *present)

    return forward


def _fill(cache: Any, index: int, keys: Tensor, values: Tensor) -> None:
    """Put the past into a layer as it is; `update` would first join it to an empty tensor."""
    while len(cache.layers) <= index:
        cache.layers.append(cache.layer_class_to_replicate())
    layer = cache.layers[index]
    layer.dtype, layer.device = keys.dtype, keys.device
    layer.keys, layer.values, layer.is_initialized = keys, values, True


def _present(layers: Any, name: str) -> Tensor:
    layer, _, part = name.partition("_")
    tensor = layers[int(layer)].keys if part == KEY else layers[int(layer)].values
    assert isinstance(tensor, Tensor)
    return tensor


def plain_forward(model: Any) -> Callable[..., dict[str, Tensor]]:
    """A forward that returns the tensors of the model's result under the model's own names."""
    original = model.forward

    def forward(**inputs: Tensor) -> dict[str, Tensor]:
        result = original(**inputs)
        return {name: value for name, value in result.items() if isinstance(value, Tensor)}

    return forward


def cached_example(model: Any, shapes: Mapping[State, tuple[int, int]]) -> dict[str, Any]:
    """Example inputs of `cached_forward`."""
    example: dict[str, Any] = {
        "input_ids": _example_ids(model),
        "attention_mask": torch.ones(BATCH, PAST + SEQUENCE, dtype=torch.long),
    }
    if accepts(model, "position_ids"):
        example["position_ids"] = torch.arange(PAST, PAST + SEQUENCE).repeat(BATCH, 1)
    generator = torch.Generator().manual_seed(0)
    example["past_key_values"] = {
        f"{layer}_{part}": torch.randn(BATCH, heads, PAST, width, generator=generator)
        for (layer, part), (heads, width) in shapes.items()
    }
    return example


def encoder_example(model: Any) -> dict[str, Any]:
    """Example inputs of an encoder; ``token_type_ids`` only where types exist."""
    example = {
        "input_ids": _example_ids(model),
        "attention_mask": torch.ones(BATCH, SEQUENCE, dtype=torch.long),
    }
    if (
        accepts(model, "token_type_ids")
        and (config_value(model.config, "type_vocab_size") or 0) > 1
    ):
        example["token_type_ids"] = torch.zeros(BATCH, SEQUENCE, dtype=torch.long)
    return example


def _example_ids(model: Any) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(_vocabulary(model), (BATCH, SEQUENCE), generator=generator)


def _vocabulary(model: Any) -> int:
    """Rows of the table of tokens; where the model does not say which that is, what it promises.

    Raises:
        UsageError: it says nothing.
    """
    try:
        return int(model.get_input_embeddings().weight.shape[0])
    except (NotImplementedError, AttributeError):  # How transformers says that it has none.
        found = config_value(model.config, "vocab_size")
    if isinstance(found, int) and found > 0:
        return found
    raise UsageError(
        f"{type(model).__name__} has no table of tokens and no vocab_size in its configuration, so "
        f"it reads no text; give the task that it is for with {spelled('task')}, or compile it "
        "from Python with example_inputs"
    )
