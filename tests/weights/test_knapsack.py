"""A budget is spent where it buys most, and never exceeded."""

from __future__ import annotations

from itertools import pairwise, product
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import awqc
from awqc.compiler import Compiled
from awqc.errors import UsageError
from awqc.options.values import parse_size
from awqc.weights.knapsack import Item, allocate, curve, totals


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[Item], int]:
    items = []
    for index in range(draw(st.integers(1, 6))):
        small = draw(st.integers(1, 500))
        large = small + draw(st.integers(1, 500))
        loss = draw(st.floats(0, 10))
        items.append(Item(str(index), (4, 8), (small, large), (loss, loss * draw(st.floats(0, 1)))))
    least = sum(item.sizes[0] for item in items)
    return items, least + draw(st.integers(0, 2000))


@settings(max_examples=200, deadline=None)
@given(problems())
def test_the_choice_is_the_best_of_all(problem: tuple[list[Item], int]) -> None:
    items, budget = problem
    size, loss = totals(items, allocate(items, budget))
    every = (
        totals(items, {item.name: bits for item, bits in zip(items, widths, strict=True)})
        for widths in product((4, 8), repeat=len(items))
    )
    assert size <= budget
    assert loss == pytest.approx(min(other for fits, other in every if fits <= budget))


def test_a_large_budget_is_kept_and_nearly_used_up() -> None:
    items = [
        Item(str(i), (4, 8), (10**6 + i, 2 * 10**6 + i), (float(i), 0.1 * i)) for i in range(60)
    ]
    size, _ = totals(items, allocate(items, 90_000_000))
    assert 90_000_000 - 10**6 <= size <= 90_000_000
    points = curve(items)
    assert all(a[0] < b[0] and a[1] > b[1] for a, b in pairwise(points))


def test_what_cannot_fit_is_refused() -> None:
    with pytest.raises(UsageError, match="at least 10 bytes at 4 bits; 9 are allowed"):
        allocate([Item("w", (4, 8), (10, 20), (1.0, 0.0))], 9)


@pytest.mark.parametrize("text", ["0", "90 lions", "-3MB", ""])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="write bytes"):
        parse_size(text)


class Net(nn.Module):
    """Two branches; the second one hardly counts."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.loud, self.quiet = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.first(x)
        out: torch.Tensor = self.loud(h) + 0.01 * self.quiet(h)
        return out


def compiled(**options: Any) -> Compiled:
    torch.manual_seed(0)
    model, batches = Net(), [(torch.randn(64, 64),) for _ in range(10)]
    return awqc.compile(
        model, batches[0], calib=batches, group_size=32, formats=("onnx",), **options
    )


def widths(result: Compiled) -> dict[str, int]:
    return dict(result.report["allocation"]["bits"])


def test_bits_go_where_the_output_depends_on_them() -> None:
    """4 bits in groups of 32 take 5.125 a weight, 8 bits 9.25; 8 pay for two of three."""
    result = compiled(avg_bits=8.0)
    assert widths(result) == {"first.weight": 8, "loud.weight": 8, "quiet.weight": 4}
    uniform = compiled()
    better = result.report["verify"]["original"]["sqnr_db"]
    assert better > uniform.report["verify"]["original"]["sqnr_db"] + 10


def test_a_budget_holds_for_what_is_stored(tmp_path: Path) -> None:
    result = compiled(budget="9KB")
    assert result.report["size"]["quantized_bytes"] <= 9000
    assert sorted(widths(result).values()) == [4, 4, 4]
    with pytest.raises(UsageError, match="are allowed"):
        compiled(budget="5KB")


def test_a_recipe_repeats_the_widths() -> None:
    result = compiled(avg_bits=8.0)
    again = compiled(recipe=result.folder)
    assert (again.folder / "model.onnx").read_bytes() == (result.folder / "model.onnx").read_bytes()
