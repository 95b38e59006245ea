"""Each product, seen as a matrix product, gives what the operation gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from awqc.capture.module import capture_module
from awqc.graph.linears import MAX_PATCHES, Linear, find_linears

PRODUCTS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(6, 4), (3, 6)),
    "linear 4d": (lambda: nn.Linear(6, 4), (3, 2, 2, 6)),
    "conv1d": (lambda: nn.Conv1d(6, 4, 3, padding=1), (2, 6, 9)),
    "conv1d same": (lambda: nn.Conv1d(6, 4, 4, padding="same"), (2, 6, 9)),
    "conv1d valid": (lambda: nn.Conv1d(6, 4, 4, padding="valid", dilation=2), (2, 6, 9)),
    "conv2d": (lambda: nn.Conv2d(6, 4, (3, 2), stride=2, padding=(1, 0)), (2, 6, 9, 7)),
    "conv2d dilated": (lambda: nn.Conv2d(6, 4, 3, dilation=(2, 1)), (2, 6, 9, 7)),
    "conv2d grouped": (lambda: nn.Conv2d(6, 8, 3, groups=2), (2, 6, 5, 5)),
    "conv2d depthwise": (lambda: nn.Conv2d(6, 12, 3, groups=6), (2, 6, 5, 5)),
    "conv2d 1x1": (lambda: nn.Conv2d(6, 8, 1, stride=2), (2, 6, 5, 5)),
    "conv3d": (lambda: nn.Conv3d(4, 6, (1, 2, 3), groups=2), (2, 4, 3, 4, 5)),
}


def only_linear(module: nn.Module, x: Tensor) -> Linear:
    (linear,) = find_linears(capture_module(module, (x,)).graph)
    return linear


@pytest.mark.parametrize("kind", list(PRODUCTS))
def test_rows_times_matrix_is_the_output(kind: str) -> None:
    build, shape = PRODUCTS[kind]
    module, x = build(), torch.randn(*shape)
    linear = only_linear(module, x)
    rows, matrix = linear.input_rows(x), linear.matrix(module.weight.detach())
    assert rows.shape[2] == matrix.shape[2] == linear.columns
    product = rows @ matrix.transpose(1, 2)  # (blocks, tokens, rows / blocks)
    with torch.no_grad():
        wanted = module(x) - module.bias.reshape(-1, *[1] * len(linear.kernel))
    axis = 1 if linear.kernel else -1
    wanted = wanted.movedim(axis, -1).reshape(-1, linear.rows)
    found = product.movedim(0, 1).reshape(-1, linear.rows)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", list(PRODUCTS))
def test_columns_know_their_channels(kind: str) -> None:
    build, shape = PRODUCTS[kind]
    module, x = build(), torch.randn(*shape)
    linear = only_linear(module, x)
    scale = torch.rand(linear.channels) + 0.5
    axis = 1 if linear.kernel else x.ndim - 1
    scaled = x * scale.reshape([-1 if i == axis else 1 for i in range(x.ndim)])
    columns = scale[linear.column_channels()].unsqueeze(1)
    torch.testing.assert_close(linear.input_rows(scaled), linear.input_rows(x) * columns)


def test_an_unbatched_image_has_patches_too() -> None:
    conv = nn.Conv2d(3, 4, 3)
    x = torch.randn(2, 3, 5, 5)
    linear = only_linear(conv, x)
    assert torch.equal(linear.input_rows(x[0]), linear.input_rows(x[:1]))


def test_patches_of_large_images_are_sampled_evenly() -> None:
    conv = nn.Conv2d(1, 2, 1)
    x = torch.arange(100 * 100.0).reshape(1, 1, 100, 100)
    rows = only_linear(conv, x).input_rows(x)
    assert rows.shape == (1, MAX_PATCHES, 1)
    assert rows[0, 0, 0] == 0
    assert rows[0, -1, 0] == 9999
    assert bool((rows[0].diff(dim=0) > 0).all())


def test_products_share_statistics_only_where_they_read_the_same_matrix() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 5, 3)
            self.c = nn.Conv2d(3, 5, 3, padding=1)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            return self.a(x), self.b(x), self.c(x)

    program = capture_module(Two(), (torch.randn(2, 3, 6, 6),))
    a, b, c = (linear.observed for linear in find_linears(program.graph))
    assert a == b != c


def test_products_with_an_activation_are_none() -> None:
    class Bilinear(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return nn.functional.linear(x, y)

    program = capture_module(Bilinear(), (torch.randn(2, 3), torch.randn(4, 3)))
    assert find_linears(program.graph) == []
