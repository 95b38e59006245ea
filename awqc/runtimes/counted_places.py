"""Positions that are handed to a model which counts them by places in its cache.

Where a row begins at another place, as behind padding on the left, such a model gives the same as
one that counts from there: queries meet keys by the difference of their positions. Others it cannot
take, as where padding stands between tokens and positions go on without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from awqc.errors import UsageError, spelled
from awqc.kv_cache import MASK, PAST, POSITIONS

Array = np.ndarray[Any, Any]
RANK, TOKENS = 4, 2
"""Axes of a cache, and which of them is that of tokens."""


def places_of(feeds: Mapping[str, Any]) -> Array:
    """``(rows, tokens)``: the places in the cache of the tokens of ``feeds``, arrays or tensors."""
    past = next(
        (each.shape[TOKENS] for name, each in feeds.items()
         if name.startswith(PAST) and len(each.shape) == RANK),
        0,
    )  # fmt: skip
    rows, tokens = feeds[POSITIONS].shape
    return np.tile(np.arange(past, past + tokens), (rows, 1))


def why_not_places(feeds: Mapping[str, Any]) -> str | None:
    """Which positions of ``feeds`` are not counted from the first place of a row, or from its first
    token; None if all are. Of tokens that are padding themselves nothing is asked."""
    given, mask = feeds.get(POSITIONS), feeds.get(MASK)
    if given is None:
        return None
    if given.ndim != 2:
        return f"{POSITIONS} has shape {given.shape}, not (rows, tokens)"
    places = places_of(feeds)
    seen, first = np.ones(given.shape, bool), np.zeros((len(given), 1), np.int64)
    if mask is not None and mask.ndim == 2 and mask.shape[1] >= given.shape[1] > 0:
        if len(mask) != len(given):
            return f"{POSITIONS} has {len(given)} rows, {MASK} {len(mask)}"
        seen = mask[:, -given.shape[1] :] > 0
        first = (mask > 0).argmax(axis=1)[:, None]
    wrong = seen & (given != places) & (given != places - first)
    if not wrong.any():
        return None
    row, token = (int(axis[0]) for axis in wrong.nonzero())
    return (
        f"{POSITIONS} of row {row} is {int(given[row, token])} for the token at place "
        f"{int(places[row, token])} of the cache"
    )


def check_places(feeds: Mapping[str, Array]) -> None:
    """Refuse positions that a model does not count itself.

    Raises:
        UsageError: there are such.
    """
    if (why := why_not_places(feeds)) is not None:
        raise UsageError(
            f"{why}; this model has no input for positions and counts places, from the first or "
            f"from the first that {MASK} shows. Leave padding between tokens out, run the "
            f"model.onnx beside ort/, or compile with {spelled('positions', 'given')}"
        )
