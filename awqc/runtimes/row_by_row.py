"""Batches that a fused decoder reads one row at a time.

onnxruntime's attention with a cache takes several tokens behind a past of one row only, and
refuses more. A prompt without a past, and one token in each row behind a past, go in batches.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx

from awqc.kv_cache import PAST, ROW_BY_ROW

TOKENS = 2
"""The axis of tokens in a cache; what has no more axes has one number a token."""


def reads_row_by_row(model: Path) -> bool:
    """Whether the model at ``model`` says so of itself."""
    told = onnx.load(model, load_external_data=False).metadata_props
    return any(entry.key == ROW_BY_ROW and entry.value == "1" for entry in told)


def parts_of(feeds: Mapping[str, Any], row_by_row: bool) -> list[Mapping[str, Any]]:
    """``feeds``, arrays or tensors, as they can be run: whole, or each row alone if they must."""
    past = next((value for name, value in feeds.items() if name.startswith(PAST)), None)
    if not row_by_row or past is None or past.shape[0] == 1 or past.shape[TOKENS] == 0:
        return [feeds]
    tokens = [value.shape[1] for value in feeds.values() if len(value.shape) == TOKENS]
    if min(tokens) == 1:
        return [feeds]
    rows = range(past.shape[0])
    return [{name: value[row : row + 1] for name, value in feeds.items()} for row in rows]
