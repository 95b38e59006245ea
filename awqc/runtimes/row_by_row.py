"""Batches that a fused decoder reads one row at a time.

onnxruntime's attention with a cache takes several tokens behind a past of one row only, and
refuses more. A prompt without a past, and one token in each row behind a past, go in batches.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from awqc.kv_cache import PAST, POSITIONS

TOKENS = 2
"""The axis of tokens in a cache; what has no more axes has one number a token."""


def parts_of(feeds: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """``feeds``, arrays or tensors, as they can be run: whole, or each row alone if they must.

    What has not as many rows, as a flag for all, goes with each.
    """
    past = next((value for name, value in feeds.items() if name.startswith(PAST)), None)
    if past is None or past.shape[0] == 1 or past.shape[TOKENS] == 0:
        return [feeds]
    tokens = [value.shape[1] for value in feeds.values() if len(value.shape) == TOKENS]
    if min(tokens) == 1:
        return [feeds]
    count = past.shape[0]
    return [
        {name: _row(name, value, row, count) for name, value in feeds.items()}
        for row in range(count)
    ]


def _row(name: str, value: Any, row: int, count: int) -> Any:
    """That of ``row`` in ``value``, where it has one for each of ``count`` rows."""
    if name == POSITIONS and len(value.shape) > TOKENS:  # several of each token, before the rows
        return value[:, row : row + 1]
    return value[row : row + 1] if value.shape[:1] == (count,) else value
