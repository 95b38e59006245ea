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
from awqc.numerics.request import Cut
from awqc.options.values import parse_size
from awqc.weights.knapsack import Item, allocate, curve, totals

CUTS = (Cut(4), Cut(8))


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[Item], int]:
    items = []
    for index in range(draw(st.integers(1, 6))):
        small = draw(st.integers(1, 500))
        large = small + draw(st.integers(1, 500))
        loss = draw(st.floats(0, 10))
        items.append(Item(str(index), CUTS, (small, large), (loss, loss * draw(st.floats(0, 1)))))
    least = sum(item.sizes[0] for item in items)
    return items, least + draw(st.integers(0, 2000))


@settings(max_examples=200, deadline=None)
@given(problems())
def test_the_choice_is_the_best_of_all(problem: tuple[list[Item], int]) -> None:
    items, budget = problem
    size, loss = totals(items, allocate(items, budget))
    every = (
        totals(items, {item.name: cut for item, cut in zip(items, cuts, strict=True)})
        for cuts in product(CUTS, repeat=len(items))
    )
    assert size <= budget
    assert loss == pytest.approx(min(other for fits, other in every if fits <= budget))


def test_a_large_budget_is_kept_and_nearly_used_up() -> None:
    items = [Item(str(i), CUTS, (10**6 + i, 2 * 10**6 + i), (float(i), 0.1 * i)) for i in range(60)]
    size, _ = totals(items, allocate(items, 90_000_000))
    assert 90_000_000 - 10**6 <= size <= 90_000_000
    points = curve(items)
    assert all(a[0] < b[0] and a[1] > b[1] for a, b in pairwise(points))


def test_what_cannot_fit_is_refused() -> None:
    with pytest.raises(UsageError, match="at least 10 bytes at 4 bits; 9 are allowed"):
        allocate([Item("w", CUTS, (10, 20), (1.0, 0.0))], 9)


@pytest.mark.parametrize("text", ["0", "90 lions", "-3MB", ""])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="write bytes"):
        parse_size(text)


class Net(nn.Module):
    """Two branches; the second one hardly counts."""

    def __init__(self, wide: int) -> None:
        super().__init__()
        self.first, self.loud, self.quiet = (nn.Linear(wide, wide) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.first(x)
        out: torch.Tensor = self.loud(h) + 0.01 * self.quiet(h)
        return out


def compiled(wide: int = 64, **options: Any) -> Compiled:
    torch.manual_seed(0)
    model, batches = Net(wide), [(torch.randn(64, wide),) for _ in range(10)]
    options = {"group_size": 32, **options}
    return awqc.compile(model, batches[0], calib=batches, formats=("onnx",), **options)


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


def test_groups_are_chosen_where_they_are_left_open() -> None:
    """Of 128 columns: 4 bits in groups of 128 take 4.28 a weight, in groups of 32 5.125."""
    found = compiled(wide=128, group_size="auto", avg_bits=4.9)
    assert len(found.report["allocation"]["bits"]) == 3
    groups = found.report["allocation"]["groups"]
    assert "quiet.weight" not in groups  # it gets the largest
    assert groups == {"first.weight": 32, "loud.weight": 32}
    layers = {layer["name"]: layer["group_size"] for layer in found.report["layers"]}
    assert layers == {"first.weight": 128, "loud.weight": 128, "quiet.weight": 128, **groups}
    whole = compiled(wide=128, group_size=128)
    quality = [each.report["verify"]["original"]["sqnr_db"] for each in (found, whole)]
    assert quality[0] > quality[1] + 0.2
    again = compiled(wide=128, group_size="auto", recipe=found.folder)
    assert (again.folder / "model.onnx").read_bytes() == (found.folder / "model.onnx").read_bytes()


def test_a_recipe_repeats_the_widths() -> None:
    result = compiled(avg_bits=8.0)
    again = compiled(recipe=result.folder)
    assert (again.folder / "model.onnx").read_bytes() == (result.folder / "model.onnx").read_bytes()
