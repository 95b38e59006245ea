"""What a transformers decoder carries from token to token, as plain tensors.

Layers of attention carry keys and values, which grow with the tokens; layers of convolution carry
what they still have to see, which does not. Zeros in such a state must mean that there is no past,
so that one graph serves for the first token and for those behind it: that is tried, see
`cache_shapes`.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from awqc.errors import CaptureError, spelled
from awqc.huggingface.folder import reporting
from awqc.kv_cache import KEY, VALUE

CONV, INDEXER = "conv", "indexer"
"""Words for the inputs that a convolution still sees, and keys of what chooses tokens."""
TRIED = 3
"""Tokens on which zeros are compared with no past."""
NEAR = 1e-4
"""Largest difference of logits then, relative to the largest."""

State = tuple[int, str]
"""A tensor of the cache: the layer's number, and a word for what it is."""
Shape = tuple[int | None, ...]
"""Sizes of a state without the batch; None for the axis that grows with the tokens."""


def spelled_state(state: State) -> str:
    """The state as a key of a dict of them."""
    return f"{state[0]}_{state[1]}"


def parsed(name: str) -> State:
    """The inverse of `spelled_state`."""
    layer, _, part = name.partition("_")
    return int(layer), part


def accepts(model: Any, name: str) -> bool:
    """Whether the model's forward has a parameter called ``name``."""
    return name in inspect.signature(model.forward).parameters


def cache_argument(model: Any) -> str:
    """What the model's forward calls its cache: ``cache``, or ``past_key_values`` in older code."""
    return "cache" if accepts(model, "cache") else "past_key_values"


def cache_shapes(model: Any, where: str) -> dict[State, Shape]:
    """The shape of each tensor of the model's cache, found by running one token.

    Raises:
        CaptureError: the model keeps something that cannot be carried.
    """
    cache = _cache(model)
    _run(model, cache, 1, where)
    shapes: dict[State, Shape] = {}
    for index, layer in enumerate(cache.layers):
        _check_carried(layer, index, where)
        for part, tensor in _kept(layer).items():
            shapes[index, part] = _shape(part, tensor, index, where)
    if not shapes:
        raise CaptureError(
            f"{where}: {type(model).__name__} left its cache empty: it keeps its state in a way "
            "of its own, for which one graph cannot be written"
        )
    if any(None not in shape for shape in shapes.values()):
        _check_zeros(model, shapes, where)
    return shapes


def no_past(shapes: Mapping[State, Shape], rows: int) -> dict[State, Tensor]:
    """The states before the first token."""
    return {
        state: torch.zeros(rows, *(0 if size is None else size for size in shape))
        for state, shape in shapes.items()
    }


def filled_cache(model: Any, past: Mapping[State, Tensor]) -> Any:
    """A cache of ``model`` that holds ``past``; the model's updates leave these tensors as they are.

    Layers that look at a window only keep all tokens: the model's own mask still hides what is out
    of the window, and one graph serves every length.
    """
    cache = _cache(model)
    for state, tensor in past.items():
        _put(cache, state, tensor)
    return cache


def state_of(cache: Any, state: State) -> Tensor:
    """A tensor of ``cache``, of the size that it is to be carried in."""
    index, part = state
    layer = cache.layers[index]
    tensor = _kept(layer)[part]
    if (place := _place(part)) is not None:  # it holds all that it has seen
        tensor = tensor[..., -layer.conv_kernel_size[place] :]
    return tensor


def _cache(model: Any) -> Any:
    """An empty cache that grows without bound in every layer."""
    from transformers import DynamicCache
    from transformers.cache_utils import (
        DynamicLayer,
        DynamicSlidingWindowLayer,
        LinearAttentionAndFullAttentionLayer,
        LinearAttentionAndSlidingWindowAttentionLayer,
    )

    cache = DynamicCache(config=model.config)
    for index, layer in enumerate(cache.layers):
        if type(layer) is DynamicSlidingWindowLayer:
            cache.layers[index] = DynamicLayer()
        elif type(layer) is LinearAttentionAndSlidingWindowAttentionLayer:
            count = layer.number_of_states
            cache.layers[index] = LinearAttentionAndFullAttentionLayer(number_of_states=count)
    return cache


def _kept(layer: Any) -> dict[str, Tensor]:
    """The tensors that ``layer`` holds, by the words for them."""
    found = {KEY: getattr(layer, "keys", None), VALUE: getattr(layer, "values", None)}
    for place, tensor in getattr(layer, "conv_states", {}).items():
        found[f"{CONV}{place or ''}"] = tensor
    found[INDEXER] = getattr(layer, "indexer_keys", None)
    return {part: tensor for part, tensor in found.items() if tensor is not None}


def _put(cache: Any, state: State, tensor: Tensor) -> None:
    """Put a state into its layer as it is; `update` would first join it to an empty tensor."""
    index, part = state
    while len(cache.layers) <= index:
        cache.layers.append(cache.layer_class_to_replicate())
    layer = cache.layers[index]
    layer.dtype, layer.device = tensor.dtype, tensor.device
    if (place := _place(part)) is not None:
        layer.conv_states[place] = tensor
        layer.conv_kernel_size[place] = tensor.shape[-1]
        layer.is_conv_states_initialized[place] = layer.has_previous_state[place] = True
        layer.record_past = True  # new states are joined to it then, and not written into it
    elif part == INDEXER:
        layer.indexer_keys, layer.is_indexer_initialized = tensor, True
        layer.indexer_dtype, layer.indexer_device = tensor.dtype, tensor.device
    else:
        setattr(layer, {KEY: "keys", VALUE: "values"}[part], tensor)
        layer.is_initialized = True


def _place(part: str) -> int | None:
    """Which of a layer's convolutions a state is of; None if it is of none."""
    found = re.fullmatch(rf"{CONV}(\d*)", part)
    return None if found is None else int(found[1] or 0)


def _shape(part: str, tensor: Tensor, index: int, where: str) -> Shape:
    if part == INDEXER:
        return (None, tensor.shape[2])
    if part not in (KEY, VALUE):
        return tuple(tensor.shape[1:])
    if tensor.ndim != 4:
        raise CaptureError(
            f"{where}: layer {index} keeps a {part} of shape {tuple(tensor.shape)}; "
            "(batch, heads, tokens, width) is needed"
        )
    return (tensor.shape[1], None, tensor.shape[3])


def _check_carried(layer: Any, index: int, where: str) -> None:
    """Refuse a layer that keeps something that `_kept` does not know."""
    recurrent = getattr(layer, "recurrent_states", {})
    if any(tensor is not None for tensor in recurrent.values()):
        raise CaptureError(
            f"{where}: layer {index} carries a recurrent state ({type(layer).__name__}) from token "
            "to token, by a loop over tokens, for which one graph of any length cannot be written. "
            f"Capture it without a cache: {spelled('task', 'feature-extraction')}"
        )


def _check_zeros(model: Any, shapes: Mapping[State, Shape], where: str) -> None:
    """Refuse a model to which states of zeros mean something else than none."""
    caches = _cache(model), filled_cache(model, no_past(shapes, 1))
    wanted, found = (_run(model, cache, TRIED, where) for cache in caches)
    if not float((found - wanted).abs().max()) <= NEAR * float(wanted.abs().max()):
        kinds = sorted({part for (_, part), shape in shapes.items() if None not in shape})
        raise CaptureError(
            f"{where}: states of zeros ({', '.join(kinds)}) are not what {type(model).__name__} "
            "begins a text with, so one graph for its first token and for others cannot be "
            f"written. Capture it without a cache: {spelled('task', 'feature-extraction')}"
        )


def _run(model: Any, cache: Any, tokens: int, where: str) -> Tensor:
    """Logits of a text of one row, read into ``cache``."""
    with torch.no_grad(), reporting(f"{where}: the model did not run with a cache"):
        ids = torch.arange(tokens)[None]
        logits: Tensor = model(input_ids=ids, use_cache=True, **{cache_argument(model): cache})[0]
        return logits
