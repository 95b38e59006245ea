"""What a transformers decoder carries from token to token, as plain tensors.

Layers of attention carry keys and values, which grow with the tokens. Others carry what does not
grow: what a convolution still has to see, or the state of a recurrence. Zeros in these must mean
that there is no past, and what is read behind them must be what the model gives for all tokens at
once, so that one graph serves for any number of tokens behind any others: that is tried, see
`cache_shapes`.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from awqc.errors import CaptureError, spelled
from awqc.huggingface.folder import reporting
from awqc.huggingface.kernel_forms import recurrences_instead
from awqc.kv_cache import CONV, INDEXER, KEY, RECURRENT, VALUE
from awqc.recording.near import near_everywhere

STATES = {CONV: "conv_states", RECURRENT: "recurrent_states"}
"""Where a layer keeps those of which it may have several."""
TRIED = (4, 2, 2)
"""Tokens that are read behind each other, so many at once, and all at once to compare.

For a single one models have code of their own, which is not captured and may do something else.
"""
NEAR = 1e-4
"""Largest difference of logits and of states then, relative to the largest."""

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
    _run(model, cache, range(1), where)
    shapes: dict[State, Shape] = {}
    for index, layer in enumerate(cache.layers):
        _check_known(layer, index, where)
        for part, tensor in _kept(layer).items():
            shapes[index, part] = _shape(part, tensor, index, where)
    if not shapes:
        raise CaptureError(
            f"{where}: {type(model).__name__} left its cache empty: it keeps its state in a way "
            "of its own, for which one graph cannot be written"
        )
    if any(None not in shape for shape in shapes.values()):
        _check_together(model, shapes, where)
    return shapes


def no_past(shapes: Mapping[State, Shape], rows: int) -> dict[State, Tensor]:
    """The states before the first token."""
    return {
        state: torch.zeros(rows, *(0 if size is None else size for size in shape))
        for state, shape in shapes.items()
    }


def filled_cache(model: Any, past: Mapping[State, Tensor]) -> Any:
    """A cache of ``model`` that holds ``past``, whose tensors stay as they are when it is read.

    Layers that look at a window only keep all tokens: the model's own mask still hides what is out
    of the window, and one graph serves every length.
    """
    cache = _cache(model)
    for state, tensor in past.items():
        _put(cache, state, tensor)
    return cache


@contextmanager
def reading(model: Any, cache: Any) -> Iterator[None]:
    """Let ``model`` read any number of tokens at once into ``cache``, of `filled_cache`."""
    handed: list[Tensor | None] = [None]
    own = cache.get_recurrent_state

    def hand_out(*args: Any, **kwargs: Any) -> Tensor | None:
        handed[0] = own(*args, **kwargs)
        return handed[0]

    cache.get_recurrent_state = hand_out
    with recurrences_instead(model, lambda: handed[0]):
        yield


def state_of(cache: Any, state: State) -> Tensor:
    """A tensor of ``cache``, of the size that it is to be carried in."""
    index, part = state
    layer = cache.layers[index]
    tensor = _kept(layer)[part]
    word, place = _word(part)
    if word == CONV:  # it holds all that it has seen
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


def _check_known(layer: Any, index: int, where: str) -> None:
    """Refuse a layer that may hold more than `_kept` knows: long texts alone would show it."""
    from transformers import cache_utils as known

    kinds = (
        known.DynamicLayer, known.DynamicIndexedLayer, known.LinearAttentionLayer,
        known.LinearAttentionAndFullAttentionLayer, known.DummyLayer,
    )  # fmt: skip
    more = getattr(layer, "indexer_position_ids", None) is not None
    if type(layer) not in kinds or more:
        what = "positions of its indexer" if more else f"a {type(layer).__name__}"
        raise CaptureError(
            f"{where}: layer {index} carries {what} from token to token, which awqc does not know "
            f"how to carry. Capture it without a cache: {spelled('task', 'feature-extraction')}"
        )


def _kept(layer: Any) -> dict[str, Tensor]:
    """The tensors that ``layer`` holds, by the words for them."""
    found = {KEY: getattr(layer, "keys", None), VALUE: getattr(layer, "values", None)}
    for word, kept in STATES.items():
        for place, tensor in getattr(layer, kept, {}).items():
            found[f"{word}{place or ''}"] = tensor
    found[INDEXER] = getattr(layer, "indexer_keys", None)
    return {part: tensor for part, tensor in found.items() if tensor is not None}


def _put(cache: Any, state: State, tensor: Tensor) -> None:
    """Put a state into its layer as it is; `update` would first join it to an empty tensor."""
    index, part = state
    while len(cache.layers) <= index:
        cache.layers.append(cache.layer_class_to_replicate())
    layer = cache.layers[index]
    layer.dtype, layer.device = tensor.dtype, tensor.device
    word, place = _word(part)
    if word in STATES:
        getattr(layer, STATES[word])[place] = tensor
        getattr(layer, f"is_{STATES[word]}_initialized")[place] = True
        layer.has_previous_state[place] = True
        layer.update_recurrent_state = partial(_replace_state, layer)
        layer.record_past = True  # new states are joined to it then, and not written into it
        if word == CONV:
            layer.conv_kernel_size[place] = tensor.shape[-1]
    elif part == INDEXER:
        layer.indexer_keys, layer.is_indexer_initialized = tensor, True
        layer.indexer_dtype, layer.indexer_device = tensor.dtype, tensor.device
    else:
        setattr(layer, {KEY: "keys", VALUE: "values"}[part], tensor)
        layer.is_initialized = True


def _replace_state(layer: Any, state: Tensor, state_idx: int = 0, **_: Any) -> Tensor:
    """What `update_recurrent_state` does, without writing into the state that was there."""
    layer.recurrent_states[state_idx] = state
    return state


def _word(part: str) -> tuple[str, int]:
    """The word that a part of a layer's states begins with, and which of several it is."""
    found = re.fullmatch(r"(\D+)(\d*)", part)
    assert found is not None
    return found[1], int(found[2] or 0)


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


def _check_together(model: Any, shapes: Mapping[State, Shape], where: str) -> None:
    """Refuse a model that does not read on behind states, zeros at first, as it reads all at once.

    The states count as much as what is made of them: what they give may be small at first.
    """
    plain = _cache(model)
    logits = _run(model, plain, range(sum(TRIED)), where)
    states, made, start = no_past(shapes, 1), [], 0
    for count in TRIED:
        cache = filled_cache(model, states)
        with reading(model, cache):
            made.append(_run(model, cache, range(start, start + count), where))
        states = {state: state_of(cache, state) for state in states}
        start += count
    fixed = [state for state, shape in shapes.items() if None not in shape]
    pairs = [(_kept(plain.layers[state[0]])[state[1]], states[state]) for state in fixed]
    pairs.append((logits, torch.cat(made, 1)))
    if not all(near_everywhere(found, wanted, NEAR) for wanted, found in pairs):
        kinds = sorted({part for _, part in fixed})
        raise CaptureError(
            f"{where}: {type(model).__name__} carries states ({', '.join(kinds)}) in a way of its "
            "own: tokens read behind them, which are zeros at first, are not what it gives when it "
            "reads all at once, so one graph for any number of tokens cannot be written. "
            f"Capture it without a cache: {spelled('task', 'feature-extraction')}"
        )


def _run(model: Any, cache: Any, tokens: range, where: str) -> Tensor:
    """Logits of some tokens of a text of one row, read into ``cache``."""
    ids = torch.tensor([list(tokens)])
    order = {"position_ids": ids} if accepts(model, "position_ids") else {}
    with torch.no_grad(), reporting(f"{where}: the model did not run with a cache"):
        logits: Tensor = model(
            input_ids=ids, use_cache=True, **{cache_argument(model): cache}, **order
        )[0]
        return logits
