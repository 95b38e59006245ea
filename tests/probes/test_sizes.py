"""Which sizes are tried beside the example's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim, export

from awqc.capture.exported import program_from_exported
from awqc.probes.axes import FreeAxes, free_axes
from awqc.probes.resized import padded_batches, resized_batch
from awqc.probes.sizes import attempts, breaking


class Calling(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def axes_of(function: Callable[[Tensor], Tensor], shape: tuple[int, ...], *free: int) -> FreeAxes:
    exported = export(
        Calling(function),
        (torch.randn(shape),),
        dynamic_shapes=(dict.fromkeys(free, Dim.AUTO),),
    )
    axes = free_axes(program_from_exported(exported))
    assert axes is not None
    return axes


def described(axes: FreeAxes) -> list[list[str]]:
    return [[axes.describe(way.sizes) for way in ways] for ways in attempts(axes)]


def test_one_sample_primes_that_stand_nowhere_and_single_elements_are_tried() -> None:
    axes = axes_of(lambda x: x.reshape(x.shape[0], 5, 7, -1), (4, 35, 12), 0, 2)
    assert [ways[0] for ways in described(axes)] == [
        "axis 0 of x = 1, axis 2 of x = 11",
        "axis 0 of x = 11, axis 2 of x = 13",  # neither 5 nor 7
        "axis 2 of x = 1",
    ]


def test_where_primes_cannot_be_multiples_come_next() -> None:
    axes = axes_of(lambda x: x.reshape(x.shape[0], x.shape[1] // 8, 8) + 1, (4, 16), 0, 1)
    second = described(axes)[1]
    assert second == ["axis 0 of x = 5, axis 1 of x = 17", "axis 0 of x = 5, axis 1 of x = 32"]


@pytest.mark.parametrize(
    ("function", "broken"),
    [
        (lambda x: x * 2 if x.shape[0] == 17 else x + 1, ("axis 0 of x = 17", False)),
        (lambda x: x * 2 if x.shape[1] > 50 else x + 1, ("axis 1 of x = 51", True)),
        (lambda x: x * 2 if x.shape[1] == x.shape[2] else x + 1, ("axis 1 of x = 24", False)),
        (lambda x: x * 2 if x.shape[0] + x.shape[1] == 40 else x, ("axis 0 of x = 24", False)),
    ],
)
def test_what_capture_took_for_granted_is_broken(
    function: Callable[[Tensor], Tensor], broken: tuple[str, bool]
) -> None:
    axes = axes_of(function, (4, 16, 24), 0, 1, 2)
    primes = [ways[0].sizes for ways in attempts(axes)][:2]
    found = [(axes.describe(each.sizes), each.beyond) for each in breaking(axes, primes)]
    assert found == [broken]
    assert [axes.describe(each.sizes) for each in breaking(axes, [])] == [broken[0]]


def test_nothing_is_free_where_all_axes_are_fixed() -> None:
    exported = export(Calling(lambda x: x + 1), (torch.randn(4, 3),))
    assert free_axes(program_from_exported(exported)) is None


class Masked(nn.Module):
    def forward(self, ids: Tensor, attention_mask: Tensor, past: Tensor) -> Tensor:
        return torch.cat([past, ids], 1) * attention_mask


def test_sizes_that_follow_from_others_are_kept_and_elements_repeated() -> None:
    example = (torch.arange(6).view(2, 3), torch.ones(2, 8).long(), torch.ones(2, 5).long())
    free = {0: Dim.AUTO, 1: Dim.AUTO}
    program = program_from_exported(export(Masked(), example, dynamic_shapes=(free, free, free)))
    axes = free_axes(program)
    assert axes is not None
    batch = resized_batch(program, axes, {s: size + 2 for s, size in axes.example.items()})
    assert batch is not None
    shapes = {name: tuple(value.shape) for name, value in batch.items()}
    assert shapes == {"ids": (4, 5), "attention_mask": (4, 12), "past": (4, 7)}
    assert batch["ids"][0].tolist() == [0, 1, 2, 0, 1]
    assert batch["ids"][2].tolist() == [0, 1, 2, 0, 1]
    assert resized_batch(program, axes, dict.fromkeys(axes.example, 2000)) is None
    masks = [each[2]["attention_mask"] for each in padded_batches(program)]
    assert [(mask == 0).nonzero().tolist() for mask in masks] == [[[1, 7]], [[0, 0]]]


def test_sizes_at_which_much_is_made_are_not_tried() -> None:
    wide = Calling(lambda x: (x + torch.zeros(1000, 1)).sum(1))
    free = ({0: Dim.AUTO, 2: Dim.AUTO},)
    program = program_from_exported(export(wide, (torch.randn(2, 1, 8),), dynamic_shapes=free))
    axes = free_axes(program)
    assert axes is not None
    rows, columns = axes.example
    assert axes.elements(axes.example) == 1000 + 2 * 1000 * 8 + 2 * 8
    sizes = {rows: 512, columns: 8}
    assert resized_batch(program, axes, sizes) is not None
    assert resized_batch(program, axes, {**sizes, columns: 1024}) is None


def test_sizes_near_those_of_a_large_example_are_tried() -> None:
    example = (torch.zeros(1, 1).expand(2**12, 2**11),)
    program = program_from_exported(
        export(Calling(lambda x: x[:, :2] + 1), example, dynamic_shapes=({0: Dim.AUTO},))
    )
    axes = free_axes(program)
    assert axes is not None
    (rows,) = axes.example
    assert resized_batch(program, axes, {rows: 3 * 2**11}) is not None
    assert resized_batch(program, axes, {rows: 5 * 2**12}) is None


def test_of_an_axis_with_a_step_multiples_alone_are_tried() -> None:
    axes = axes_of(lambda x: x * 2 if x.shape[2] != 40 else x, (4, 3, 16), 0, 2)
    symbol = next(s for s, (_, axis) in axes.places.items() if axis == 2)
    stepped = replace(axes, steps={symbol: 8})
    tried = [way.sizes[symbol] for ways in attempts(stepped) for way in ways]
    assert 8 in tried
    assert max(tried) > 16
    assert not any(size % 8 for size in tried)
    assert [attempt.sizes[symbol] for attempt in breaking(stepped, [])] == [40]
    assert list(breaking(replace(axes, steps={symbol: 16}), [])) == []


def test_of_a_long_axis_a_quarter_more_and_less_is_tried() -> None:
    """One element more would give as many windows of a convolution with a stride."""
    axes = axes_of(lambda x: x[:, ::100] + 1, (4, 1000), 0, 1)
    assert [ways[0] for ways in described(axes)][:2] == [
        "axis 0 of x = 1, axis 1 of x = 743",
        "axis 0 of x = 5, axis 1 of x = 1259",
    ]
