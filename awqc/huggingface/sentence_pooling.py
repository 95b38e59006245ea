"""One vector of the vectors of a text's tokens, as operations of a graph.

Source: the format of sentence-transformers, versions 2 to 6.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

TINY = 1e-9


def _mean(states: Tensor, mask: Tensor) -> Tensor:
    return (states * mask[..., None]).sum(dim=1) / _count(mask)


def _per_root(states: Tensor, mask: Tensor) -> Tensor:
    return (states * mask[..., None]).sum(dim=1) / _count(mask).sqrt()


def _later_more(states: Tensor, mask: Tensor) -> Tensor:
    """The mean with weights 1, 2, 3, … of what is no padding."""
    return _mean(states, mask * mask.cumsum(dim=1))


def _largest(states: Tensor, mask: Tensor) -> Tensor:
    lowest = torch.finfo(states.dtype).min
    return torch.where(mask[..., None] > 0, states, lowest).amax(dim=1)


def _first(states: Tensor, mask: Tensor) -> Tensor:
    return _at(states, mask.argmax(dim=1))


def _last(states: Tensor, mask: Tensor) -> Tensor:
    places = torch.arange(mask.shape[1], dtype=mask.dtype, device=mask.device)
    return _at(states, (mask * places).argmax(dim=1))


def _count(mask: Tensor) -> Tensor:
    return mask.sum(dim=1, keepdim=True).clamp_min(TINY)


def _at(states: Tensor, places: Tensor) -> Tensor:
    index = places[:, None, None].expand(-1, 1, states.shape[2])
    return states.gather(1, index).squeeze(1)


MODES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cls": _first,
    "max": _largest,
    "mean": _mean,
    "mean_sqrt_len_tokens": _per_root,
    "weightedmean": _later_more,
    "lasttoken": _last,
}
"""Of vectors ``(batch, tokens, width)`` and a mask ``(batch, tokens)`` of numbers, 0 at padding."""
