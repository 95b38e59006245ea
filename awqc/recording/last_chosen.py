"""Rows of each sample that a mask chooses, of which only the last is taken: read at its place.

::

    rows[mask].view(batch, -1, width)[:, -1]    ->    rows[:, the last place where mask is set]

as of a model that judges a text by what stands at its end token. How many rows a mask chooses
follows from data, which a graph cannot reshape by; where the last of them is, it can tell.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

Forward = Callable[..., dict[str, Tensor]]


def taking_the_last(forward: Forward, example: Mapping[str, Tensor]) -> Forward:
    """``forward`` with that in place of such choices, if its outputs for ``example`` stay the same.

    In ``example`` every sample needs several rows that are chosen, else any one would do. Where
    ``forward`` chooses no rows, or more than the last matter, it is given back as it is.
    """

    @wraps(forward)
    def last(**inputs: Tensor) -> dict[str, Tensor]:
        with _LastChosen():
            return forward(**inputs)

    with torch.no_grad(), _LastChosen() as seen:
        try:
            made = forward(**example)
        except Exception:  # noqa: BLE001 - whoever captures it says why it fails
            return forward
    if not seen.chosen:
        return forward
    with torch.no_grad():
        wanted = forward(**example)
    same = all(torch.equal(value, made[name]) for name, value in wanted.items())
    return last if same else forward


class _LastChosen(TorchFunctionMode):
    """Gives one row a sample, the last, where a mask over rows chooses some."""

    chosen = False

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        mask = _mask_of(*args) if func is Tensor.__getitem__ else None
        if mask is None:
            return func(*args, **(kwargs or {}))
        self.chosen = True
        rows = args[0]
        order = torch.arange(1, mask.shape[1] + 1, device=mask.device)
        place = (mask * order).argmax(dim=1)
        return rows.gather(1, place[:, None, None].expand(-1, 1, rows.shape[2]))[:, 0]


def _mask_of(rows: Any, index: Any) -> Tensor | None:
    """The mask over ``rows``, ``(batch, count, width)``, that is their index."""
    first, *others = index if isinstance(index, tuple) else (index,)
    if any(each != slice(None) for each in others) or not isinstance(first, Tensor):
        return None
    if not isinstance(rows, Tensor) or rows.ndim != 3 or first.dtype != torch.bool:
        return None
    return first if first.shape == rows.shape[:2] else None
