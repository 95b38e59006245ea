"""Where the words of a text stand on a page: boxes that models of documents read beside tokens."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

BOXES = "bbox"
"""The input ``(batch, sequence, 4)``: left, top, right, bottom of the word of each token."""
PAGE = 1000
"""Width and height of a page in whole numbers; 1 in others."""
DTYPES = (torch.float32, torch.int64)
COLUMNS, WIDTH, LINE, HEIGHT = 10, 80, 25, 20


def made_up_boxes(rows: int, count: int, dtype: torch.dtype = torch.int64) -> Tensor:
    """Boxes ``(rows, count, 4)`` of words that fill a page line by line."""
    place = torch.arange(count)
    left = place % COLUMNS * (PAGE // COLUMNS)
    top = place // COLUMNS * LINE % (PAGE - HEIGHT)
    boxes = torch.stack([left, top, left + WIDTH, top + HEIGHT], dim=-1).repeat(rows, 1, 1)
    return (boxes / PAGE).to(dtype) if dtype.is_floating_point else boxes.to(dtype)


def boxes_example(model: Any, example: dict[str, Any]) -> dict[str, Tensor]:
    """Boxes for the tokens of ``example``, where the forward of ``model`` takes such.

    In parts of the page where it computes with them, in whole numbers where it looks them up.
    """
    if BOXES not in inspect.signature(model.forward).parameters:
        return {}
    rows, count = example["input_ids"].shape
    parts, whole = (made_up_boxes(rows, count, dtype) for dtype in DTYPES)
    return {BOXES: parts if _takes(model, {**example, BOXES: parts}) else whole}


def _takes(model: Any, inputs: dict[str, Any]) -> bool:
    try:
        with torch.no_grad():
            model(**inputs)
    except Exception:  # noqa: BLE001 - a model may fail on numbers of another kind in any way
        return False
    return True
