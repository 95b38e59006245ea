"""A tensor kept in half precision is a float32 tensor to whoever computes with it."""

from __future__ import annotations

import io
from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule

from awqc.machine.narrow import NARROW, Narrow

aten = torch.ops.aten
IDS = torch.tensor([3, 0])
X = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))


def made(dtype: torch.dtype = torch.bfloat16) -> Narrow:
    return Narrow.of(torch.randn(5, 4, generator=torch.Generator().manual_seed(1)).to(dtype))


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize(
    "compute",
    [
        lambda w: nn.functional.linear(X, w),
        lambda w: aten.linear.default(X, w),
        lambda w: aten.linear.default(input=X, weight=w),
        lambda w: X @ w.T,
        lambda w: nn.functional.embedding(IDS, w),
        lambda w: aten.embedding.default(w, IDS),
        lambda w: torch.cat([w, w]),
        lambda w: w[1:].reshape(-1),
        lambda w: w.detach(),
        lambda w: w.data,
        lambda w: w.float() + 1,
        lambda w: w.isfinite(),
        lambda w: torch.stack(list(w.unbind())),
    ],
)
def test_it_gives_what_the_widened_tensor_gives(
    compute: Callable[[Tensor], Tensor], dtype: torch.dtype
) -> None:
    narrow = made(dtype)
    wide = nn.Parameter(narrow.stored().float(), requires_grad=False)
    found, wanted = compute(narrow), compute(wide)
    assert type(found) is Tensor
    assert found.dtype == wanted.dtype
    assert torch.equal(found, wanted)


def test_it_says_that_it_is_float32_and_lies_where_it_was() -> None:
    stored = torch.ones(5, 4, dtype=torch.bfloat16)
    narrow = Narrow.of(stored)
    assert (narrow.dtype, narrow.shape, narrow.numel()) == (torch.float32, (5, 4), 20)
    assert narrow.is_floating_point()
    assert (narrow.nbytes, narrow.element_size()) == (40, 2)
    assert narrow.untyped_storage().data_ptr() == stored.untyped_storage().data_ptr()
    assert narrow.stored().dtype is torch.bfloat16
    assert not narrow.requires_grad


def test_modules_and_graphs_hold_it() -> None:
    module, narrow = nn.Linear(4, 5), made()
    module.weight = narrow
    assert dict(module.named_parameters())["weight"] is narrow
    assert module.eval().requires_grad_(False).weight is narrow
    assert deepcopy(module).weight is narrow
    graph = Graph()
    x = graph.placeholder("x")
    graph.output(graph.call_function(aten.linear.default, (x, graph.get_attr("weight"))))
    copied = GraphModule(module, graph)
    assert copied.weight is narrow
    assert torch.equal(copied(X), X @ narrow.stored().float().T)


@pytest.mark.parametrize(
    "write",
    [lambda w: w.mul_(2), lambda w: w.copy_(torch.ones(5, 4)), lambda w: w.__setitem__(0, 1.0)],
)
def test_it_cannot_be_written_to(write: Callable[[Tensor], object]) -> None:
    """A write would go to a copy, and be lost."""
    with pytest.raises(RuntimeError, match="cannot be written to"):
        write(made())


def test_it_is_saved_as_what_it_is_read_as() -> None:
    narrow, file = made(), io.BytesIO()
    torch.save(narrow, file)
    file.seek(0)
    assert torch.equal(torch.load(file), narrow.stored().float())
