"""A large quantized weight is dequantized a few rows at a time, and only for who computes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from awqc.machine import in_rows
from awqc.numerics.formats.base import QuantizedWeight, WeightFormat
from awqc.numerics.formats.found import dequantizes
from awqc.numerics.formats.int_grid import IntGrid, dequantize_packed
from awqc.numerics.formats.lazy import Dequantized
from awqc.numerics.formats.q4_k import Q4K
from awqc.numerics.quantizing import quantize

aten = torch.ops.aten
ROWS, COLUMNS = 10, 256
RANDOM = torch.Generator().manual_seed(0)
X = torch.randn(3, COLUMNS, generator=RANDOM)
IDS = torch.tensor([[7, 0], [7, 9]])
FORMATS = [IntGrid(4, 32), IntGrid(4, 48), IntGrid(3, 64), IntGrid(8, -1, symmetric=True), Q4K()]


def made(form: WeightFormat = FORMATS[0]) -> QuantizedWeight:
    weight = torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(1))
    return quantize(weight, ROWS, form)


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_rows, "LARGE", ROWS * COLUMNS)
    monkeypatch.setattr(in_rows, "AT_ONCE", 4 * COLUMNS)


@pytest.mark.parametrize("form", FORMATS, ids=str)
@pytest.mark.parametrize(
    "compute",
    [
        lambda w: aten.linear.default(X, w, torch.arange(10.0)),
        lambda w: torch.nn.functional.linear(X[0], w),
        lambda w: X.half() @ w.half().T,
        lambda w: aten.embedding.default(w, IDS),
        lambda w: torch.nn.functional.embedding(IDS, w),
        lambda w: torch.nn.functional.embedding(input=IDS, weight=w),
        lambda w: aten.embedding.default(weight=w, indices=IDS),
        lambda w: w + 1,
        lambda w: w[2:5],
        lambda w: torch.stack([w, w]),
    ],
)
def test_it_gives_what_the_whole_weight_gives(
    compute: Callable[[Tensor], Tensor], form: WeightFormat, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight = made(form)
    wanted = compute(weight.dequantize())
    monkeypatch.setattr(in_rows, "LARGE", 1)
    monkeypatch.setattr(in_rows, "AT_ONCE", 4 * COLUMNS)
    held = weight.dequantize()
    assert isinstance(held, Dequantized)
    assert (held.shape, held.dtype, held.numel()) == ((ROWS, COLUMNS), torch.float32, 2560)
    found = compute(held)
    assert type(found) is Tensor
    assert torch.allclose(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize(
    ("compute", "rows"),
    [
        (lambda w: aten.linear.default(X, w), [4, 4, 2]),
        (lambda w: aten.embedding.default(w, IDS), [3]),
        (lambda w: w.sum(), [4, 4, 2]),
        (lambda w: (w.shape, len(w), w.dtype, w.device, w.ndim), []),
    ],
)
def test_only_the_rows_that_are_worked_on_are_made(
    compute: Callable[[Tensor], Tensor], rows: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    held = made().dequantize()
    assert isinstance(held, Dequantized)
    seen: list[int] = []
    make = held._rows

    def watched(chosen: slice | Tensor) -> Tensor:
        rows_made = make(chosen)
        seen.append(len(rows_made))
        return rows_made

    monkeypatch.setattr(held, "_rows", watched)
    compute(held)
    assert seen == rows


def test_a_small_weight_is_whole() -> None:
    assert type(made().dequantize()) is Tensor


@pytest.mark.usefixtures("large")
def test_who_traces_or_learns_gets_the_operation_itself() -> None:
    form = FORMATS[0]

    class Product(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for role, tensor in made().tensors.items():
                self.register_buffer(role, tensor)

        def forward(self, x: Tensor) -> Tensor:
            packed, scale, zero_point = (self.get_buffer(role) for role in form.roles)
            return x @ dequantize_packed(packed, scale, zero_point, [ROWS, COLUMNS], 4, 32).T

    module = Product()
    graph = torch.export.export(module, (X,)).module().graph
    assert [node.op for node in graph.nodes].count("get_attr") == 3
    assert torch.allclose(torch.compile(module, backend="eager")(X), module(X), atol=1e-5)
    tensors = made().tensors
    scale = tensors["scale"].clone().requires_grad_()
    weight = dequantize_packed(
        tensors["packed"],
        scale,
        zero_point=tensors["zero_point"],
        shape=[10, 256],
        bits=4,
        group_size=32,
    )
    weight.sum().backward()
    assert scale.grad is not None


def test_the_operation_is_known_by_itself() -> None:
    assert dequantizes(dequantize_packed)
    assert dequantize_packed.__name__ == "dequantize_packed"
