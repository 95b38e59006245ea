"""Functions whose kernels CUDA records."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from awqc.machine.cuda_graph import recorded
from awqc.machine.devices import CPU
from awqc.numerics.formats.int_grid import IntGrid
from awqc.numerics.formats.q4_k import Q4K
from awqc.numerics.grid import Grid
from awqc.numerics.quantizing import whole_range

on_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def rounded(values: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """Steps and what they leave; the values become what is left."""
    steps = grid.nearest(values)
    values.sub_(grid.value(steps))
    return steps, values


def given(seed: int, rows: int) -> tuple[Tensor, Grid]:
    values = torch.randn(rows, 256, generator=torch.Generator().manual_seed(seed))
    grid, grouped = whole_range(values, Q4K(), torch.float32)
    return grouped.transpose(0, 1).contiguous(), grid.turned().spread()


def test_off_cuda_it_is_the_function_itself() -> None:
    assert recorded(rounded, CPU) is rounded


@on_cuda
def test_recorded_kernels_give_what_the_function_gives() -> None:
    device = torch.device("cuda")
    function = recorded(rounded, device)
    for seed, rows in enumerate([3, 3, 3, 5, 3, 5, 5]):
        values, grid = given(seed, rows)
        there = values.to(device), grid.map(lambda tensor: tensor.to(device))
        wanted = rounded(there[0].clone(), there[1])
        for made, each in zip(function(*there), wanted, strict=True):
            assert torch.equal(made, each), (seed, rows)


@pytest.mark.parametrize("form", [IntGrid(4, 32), Q4K()], ids=str)
def test_a_grid_is_a_tree_of_its_tensors(form: IntGrid | Q4K) -> None:
    grid, _ = whole_range(torch.randn(3, 256), form, torch.float32)
    leaves, tree = torch.utils._pytree.tree_flatten(grid)
    assert all(isinstance(leaf, Tensor) for leaf in leaves)
    again = torch.utils._pytree.tree_unflatten([leaf + 1 for leaf in leaves], tree)
    assert type(again) is type(grid)
    assert torch.equal(again.scale, grid.scale + 1)
    assert (again.shift is None) == (grid.shift is None)
    assert again.dtype == grid.dtype
