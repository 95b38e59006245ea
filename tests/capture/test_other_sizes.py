"""A graph holds at all sizes that its axes may have, or the axis is fixed and the reason told."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from awqc.capture.module import capture_module
from awqc.errors import CaptureError, UsageError


class Conv(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.conv(x))


EXAMPLE = (torch.randn(2, 3, 16, 24),)

DEPENDENT = {
    "a branch on one size": (lambda a: a * 2 if a.shape[2] == 17 else a, "axis 2 of x = 17"),
    "a branch on more than one": (lambda a: a * 2 if a.shape[2] > 1 else a, "axis 2 of x = 1"),
    "a branch on a multiple": (lambda a: a * 2 if a.shape[2] % 4 == 0 else a, "axis 2 of x = 13"),
    "a kernel of half the image": (
        lambda a: nn.functional.avg_pool2d(a, (a.shape[2] // 2, 3)), "kernel_size [8, 3] in one",
    ),
    "a number from a size": (lambda a: a * float(a.shape[2] * 0.5), "mul with other 8.0 in one"),
    "such a number behind what is written into": (
        lambda a: a.clone().add_(1).reshape(a.shape) * float(a.shape[2] * 0.5),
        "mul with other 8.0 in one",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", list(DEPENDENT))
def test_a_constant_that_follows_from_a_free_size_is_refused(kind: str) -> None:
    function, part = DEPENDENT[kind]
    with pytest.raises(UsageError) as caught:
        capture_module(Conv(function), EXAMPLE, dynamic={"x": [2]})
    assert "the model fixes axis 2 at 16" in str(caught.value)
    assert part in str(caught.value)


def test_only_the_axis_that_decides_is_fixed() -> None:
    def function(a: Tensor) -> Tensor:
        return a * 2 if a.shape[0] == 17 else a

    program = capture_module(Conv(function), EXAMPLE, dynamic={"x": [3]})
    assert program.inputs[0].shape == (2, 3, 16, "x_axis_3")
    assert "with axis 0 of x = 17" in program.notes[0]
    assert "(mul in one of them only)" in program.notes[0]


INDEPENDENT = {
    "a whole number from a size": lambda a: a * int(a.shape[2] * 0.5),
    "a length": lambda a: a * len(a),
    "pooling to a grid": lambda a: nn.functional.adaptive_avg_pool2d(a, 2),
    "windows of eight": lambda a: a.reshape(a.shape[0], 4, 8, a.shape[2] // 8, a.shape[3]),
    "one map": lambda a: a.mean((2, 3), keepdim=True).expand_as(a),
    "a roll by half": lambda a: torch.roll(a, a.shape[2] // 2, 2),
    "squeezed": lambda a: a.mean((2, 3)).squeeze(),
}


@pytest.mark.parametrize("kind", list(INDEPENDENT))
def test_what_holds_at_every_size_stays_free(kind: str) -> None:
    program = capture_module(Conv(INDEPENDENT[kind]), EXAMPLE, dynamic={"x": [2, 3]})
    assert program.inputs[0].shape == ("batch", 3, "x_axis_2", "x_axis_3")
    assert program.notes == ()


def test_that_no_other_size_runs_is_told() -> None:
    class Strict(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if not torch.compiler.is_compiling() and x.shape[0] != 4:
                raise ValueError("four, please")
            return x + 1

    program = capture_module(Strict(), (torch.randn(4, 8),))
    assert "fails at all other sizes" in program.notes[0]


class Skipping(nn.Module):
    """Goes another way where a mask hides something, unless it is captured."""

    def __init__(self, place: int) -> None:
        super().__init__()
        self.place = place

    def forward(self, x: Tensor, hidden: Tensor) -> Tensor:
        if not torch.compiler.is_compiling() and hidden[:, self.place].any():
            return x * 0
        return x + 1


@pytest.mark.parametrize(("place", "side"), [(0, "at the start"), (-1, "at the end")])
def test_a_mask_that_decides_is_found_where_the_example_hides_nothing(
    place: int, side: str
) -> None:
    example = (torch.randn(2, 5), torch.zeros(2, 5, dtype=torch.bool))
    with pytest.raises(CaptureError, match=f"another flag {side} of hidden"):
        capture_module(Skipping(place), example)


def test_an_axis_whose_multiples_agree_stays_free() -> None:
    """As in a U-Net, which takes another way where sizes cannot be halved."""

    def function(a: Tensor) -> Tensor:
        return a * 2 if a.shape[2] % 4 else a

    program = capture_module(
        Conv(function), EXAMPLE, dynamic={"x": {2: "height"}}, steps={"x": {2: 8}}
    )
    assert program.inputs[0].shape[2] == "height"
    assert program.interface.steps == {"height": 8}
    assert "sizes of the axis height must be multiples of 8" in program.notes[0]
    (made,) = program.run({"x": torch.randn(3, 3, 40, 24)})
    assert made.shape == (3, 4, 40, 24)


def test_steps_say_nothing_where_all_sizes_agree() -> None:
    program = capture_module(
        Conv(torch.relu), EXAMPLE, dynamic={"x": {2: "height"}}, steps={"x": {2: 8}}
    )
    assert program.interface.steps == {}
    assert program.notes == ()


def test_an_axis_whose_multiples_differ_is_fixed() -> None:
    def function(a: Tensor) -> Tensor:
        return a * 2 if a.shape[2] > 16 else a

    program = capture_module(
        Conv(function), EXAMPLE, dynamic={"x": [2]}, steps={"x": {2: 8}}, insist=False
    )
    assert program.inputs[0].shape[2] in (16, "x_axis_2")
    assert any("computes something else" in note for note in program.notes)


def test_beyond_a_range_no_multiples_are_looked_for() -> None:
    """As of a table of positions, which a model makes longer and a graph does not."""

    class Placed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = torch.arange(40.0).repeat(4, 1)

        def forward(self, x: Tensor) -> Tensor:
            if x.shape[1] > self.table.shape[1]:
                return x + torch.arange(x.shape[1])
            return x + self.table[:, : x.shape[1]].mean(0)

    program = capture_module(
        Placed(), (torch.randn(2, 16),), dynamic={"x": {1: "time"}}, steps={"x": {1: 8}}
    )
    assert program.inputs[0].shape[1] == "time"
    assert program.interface.steps == {}
    assert "is compiled is wrong there" in program.notes[0]
