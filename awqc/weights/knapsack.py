"""Sharing a budget of bytes among weights: a knapsack in which each weight takes one cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from awqc.errors import UsageError, spelled
from awqc.numerics.request import Cut

BUCKETS = 20_000
"""Steps that a budget is counted in. Sizes are rounded up to whole steps, so a choice never
exceeds the budget; what rounding up leaves unused is at most a step a weight."""


@dataclass(frozen=True)
class Item:
    """One weight.

    Attributes:
        name: of the weight.
        choices: what there is to choose from, the smallest first.
        sizes: bytes at each.
        losses: predicted loss at each.
    """

    name: str
    choices: tuple[Cut, ...]
    sizes: tuple[int, ...]
    losses: tuple[float, ...]


def allocate(items: Sequence[Item], budget: int) -> dict[str, Cut]:
    """The cuts, by name, with the least total loss whose sizes sum to at most ``budget``.

    Dynamic programming over what is above the smallest size; optimal up to the rounding of
    sizes to `BUCKETS` steps.

    Raises:
        UsageError: not even the smallest cuts fit.
    """
    least = sum(min(item.sizes) for item in items)
    spare = budget - least
    if spare < 0:
        raise UsageError(
            f"the weights take at least {least} bytes at {items[0].choices[0].width} bits; "
            f"{budget} are allowed: give a larger {spelled('budget')} or {spelled('avg_bits')}, "
            "or larger groups"
        )
    most = sum(max(item.sizes) for item in items) - least
    spare = min(spare, most)
    step = max(1, -(-spare // BUCKETS))
    width = spare // step + 1
    best = np.zeros(width)
    taken = np.zeros((len(items), width), dtype=np.int8)
    for row, item in enumerate(items):
        options = np.full((len(item.sizes), width), np.inf)
        for index, (size, loss) in enumerate(zip(item.sizes, item.losses, strict=True)):
            shift = -(-(size - min(item.sizes)) // step)
            if shift < width:
                options[index, shift:] = best[: width - shift] + loss
        taken[row] = options.argmin(axis=0)
        best = options.min(axis=0)
    chosen: dict[str, Cut] = {}
    place = width - 1
    for row in range(len(items) - 1, -1, -1):
        item, index = items[row], int(taken[row, place])
        chosen[item.name] = item.choices[index]
        place -= -(-(item.sizes[index] - min(item.sizes)) // step)
    return {item.name: chosen[item.name] for item in items}


def totals(items: Sequence[Item], cuts: dict[str, Cut]) -> tuple[int, float]:
    """Bytes and predicted loss of a choice."""
    places = [(item, item.choices.index(cuts[item.name])) for item in items]
    return (
        sum(item.sizes[index] for item, index in places),
        sum(item.losses[index] for item, index in places),
    )


def curve(items: Sequence[Item], points: int = 9) -> list[tuple[int, float]]:
    """Bytes and predicted loss of the best choices from the smallest size to the largest."""
    least = sum(min(item.sizes) for item in items)
    most = sum(max(item.sizes) for item in items)
    budgets = np.linspace(least, most, points).astype(int).tolist()
    return [totals(items, allocate(items, budget)) for budget in budgets]
