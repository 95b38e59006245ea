"""A tensor kept in half precision is a float32 tensor to whoever computes with it."""

from __future__ import annotations

import io
from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule

from awqc.machine import in_rows
from awqc.machine import narrow as narrow_file
from awqc.machine.narrow import NARROW, Narrow, scaled
from tests.elsewhere import ELSEWHERE, Elsewhere

aten = torch.ops.aten
IDS = torch.tensor([3, 0])
X = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))
ROWS, COLUMNS = torch.arange(1.0, 6).sqrt().unsqueeze(1), torch.arange(1.0, 5) / 3


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
        lambda w: w[1:].reshape(-1).clone(),
        lambda w: w.reshape(1, 5, 4).float(),
        lambda w: w.reshape(2, 10).float(),
        lambda w: w[:, IDS].float(),
        lambda w: w[1] + 0,
        lambda w: torch.cat(w.split(2)),
        lambda w: w.float() + 1,
        lambda w: w.isfinite(),
        lambda w: torch.stack(list(w.unbind())),
    ],
)
@pytest.mark.parametrize("factors", [(), (ROWS,), (COLUMNS, ROWS)], ids=len)
def test_it_gives_what_the_widened_tensor_gives(
    compute: Callable[[Tensor], Tensor], dtype: torch.dtype, factors: tuple[Tensor, ...]
) -> None:
    narrow = made(dtype)
    wide = narrow.stored().float()
    for factor in factors:
        narrow, wide = narrow.times(factor), wide * factor
    found, wanted = compute(narrow), compute(nn.Parameter(wide, requires_grad=False))
    assert type(found) is Tensor
    assert found.dtype == wanted.dtype
    assert torch.equal(found, wanted)


def test_it_says_that_it_is_float32_and_lies_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    stored = torch.ones(5, 4, dtype=torch.bfloat16)
    narrow = Narrow.of(stored)
    monkeypatch.setattr(narrow_file, "widened", None)  # Nothing of this needs the values.
    assert (narrow.dtype, narrow.shape, narrow.numel()) == (torch.float32, (5, 4), 20)
    assert len(narrow) == 5
    assert narrow.is_floating_point()
    assert (narrow.nbytes, narrow.element_size()) == (40, 2)
    assert narrow.untyped_storage().data_ptr() == stored.untyped_storage().data_ptr()
    assert narrow.stored().dtype is torch.bfloat16
    assert not narrow.requires_grad


@pytest.mark.parametrize("factor", [ROWS, COLUMNS], ids=["rows", "columns"])
@pytest.mark.parametrize(
    "look",
    [
        lambda w: w.detach(),
        lambda w: w.data,
        lambda w: w[1:3],
        lambda w: w.reshape(1, 5, 4)[:, 2:],
        lambda w: w.split(2)[1],
    ],
)
def test_what_looks_at_it_is_as_narrow(look: Callable[[Tensor], Tensor], factor: Tensor) -> None:
    narrow = made()
    for each in (narrow, narrow.times(factor)):
        found = look(each)
        assert isinstance(found, Narrow)
        assert found.untyped_storage().data_ptr() == narrow.untyped_storage().data_ptr()
        assert torch.equal(found, look(each.clone()))


@pytest.mark.parametrize("bias", [None, torch.arange(5.0)])
@pytest.mark.parametrize("factors", [(), (ROWS, COLUMNS)], ids=len)
def test_a_product_with_a_large_one_is_made_in_rows(
    monkeypatch: pytest.MonkeyPatch, bias: Tensor | None, factors: tuple[Tensor, ...]
) -> None:
    monkeypatch.setattr(narrow_file, "LARGE", 20)
    monkeypatch.setattr(in_rows, "AT_ONCE", 8)
    weight = Narrow.of(made().stored(), factors)
    wanted = nn.functional.linear(X, weight.clone(), bias)
    seen: list[int] = []
    widened = narrow_file.widened

    def watched(each: Tensor) -> Tensor:
        seen.append(len(each))
        return widened(each)

    monkeypatch.setattr(narrow_file, "widened", watched)
    found = aten.linear.default(X, weight, bias)
    assert seen == [2, 2, 1]
    seen.clear()
    assert torch.allclose(found, wanted, atol=1e-6)
    assert torch.allclose(nn.functional.linear(X[0], weight=weight, bias=bias), wanted[0])


def test_scaled_is_the_product_in_float32() -> None:
    narrow = made()
    assert isinstance(scaled(narrow, ROWS), Narrow)
    half = narrow.stored()
    assert torch.equal(scaled(narrow, ROWS), half.float() * ROWS)
    assert torch.equal(scaled(half, ROWS), (half.float() * ROWS).to(half.dtype))


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


def test_factors_go_to_a_device_as_short_as_they_came() -> None:
    weight = made().times(ROWS).times(COLUMNS)
    with Elsewhere() as away:
        there = weight.widened_on(ELSEWHERE)
        assert sorted(away.arrived) == [4, 5, 20]
        assert torch.equal(there.cpu(), weight + 0)
