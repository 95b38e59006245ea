"""Whole numbers that code goes by, held while a graph is made."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from awqc.recording.known_numbers import known_numbers, numbers_to_hold
from awqc.recording.structures import Leaves

PIXELS = torch.linspace(-1, 1, 96).reshape(1, 1, 8, 12)
SIZES = torch.tensor([[4, 6]])


def listed(given: Leaves) -> Tensor:
    """Cut at numbers in a list."""
    ((height, width),) = given["sizes"].tolist()
    return given["pixels"][..., :height, :width]


def cut(given: Leaves) -> Tensor:
    """Cut at numbers that stay in tensors; cells are counted and laid out by such."""
    height, width = given["sizes"][0] // 2
    cells = given["pixels"][..., : height * 2, : width * 2].flatten()
    return cells.view(height * 2, width * 2).repeat(height, 1)


def repeated(given: Leaves) -> Tensor:
    """As many rows as numbers say, at places that follow from these."""
    rows = torch.repeat_interleave(torch.arange(2), given["sizes"][0])
    places = given["sizes"].cumsum(-1)
    return given["pixels"].flatten()[rows] * places[0, 0]


GO_BY_NUMBERS: tuple[Callable[[Leaves], Tensor], ...] = (listed, cut, repeated)


@pytest.mark.parametrize("forward", GO_BY_NUMBERS)
def test_numbers_that_code_goes_by_are_held(forward: Callable[[Leaves], Tensor]) -> None:
    example = {"pixels": PIXELS, "sizes": SIZES, "kinds": torch.ones(1, 3, dtype=torch.long)}
    assert numbers_to_hold(forward, example, 1) == ("sizes",)


@pytest.mark.parametrize("forward", GO_BY_NUMBERS)
def test_a_graph_is_made_for_their_values(forward: Callable[[Leaves], Tensor]) -> None:
    class Module(nn.Module):
        def forward(self, pixels: Tensor) -> Tensor:
            with known_numbers():
                return forward({"pixels": pixels, "sizes": SIZES})

    made = torch.export.export(Module(), (PIXELS,), strict=False).module()
    other = torch.randn(PIXELS.shape, generator=torch.Generator().manual_seed(0))
    assert torch.equal(made(other), forward({"pixels": other, "sizes": SIZES}))


def test_numbers_that_are_computed_with_stay_an_input() -> None:
    def scaled(given: Leaves) -> Tensor:
        return given["pixels"] * given["sizes"].sum()

    assert numbers_to_hold(scaled, {"pixels": PIXELS, "sizes": SIZES}, 1) == ()


def test_a_mask_is_no_number_to_hold() -> None:
    """It is data: there is a number for every pixel."""

    def masked(given: Leaves) -> Tensor:
        return given["pixels"][given["mask"].bool()]

    example = {"pixels": PIXELS, "mask": torch.ones(PIXELS.shape, dtype=torch.long)}
    assert numbers_to_hold(masked, example, 1) == ()


def test_nothing_is_held_where_it_would_not_do() -> None:
    def by_pixels(given: Leaves) -> Tensor:
        count = int(given["pixels"].sum() > 0) + int(given["sizes"][0, 0])
        return given["pixels"][..., :count]

    assert numbers_to_hold(by_pixels, {"pixels": PIXELS, "sizes": SIZES}, 1) == ()
