"""Products in bfloat16: where they are allowed, and nowhere else."""

from __future__ import annotations

import pytest
import torch

from awqc.machine import products
from awqc.machine.products import quick_products

pytestmark = pytest.mark.usefixtures("quick_products")

ROUNDING = 2.0**-8
"""Of one factor to bfloat16, at most, relative."""


def factors() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(64, 256, generator=generator), torch.randn(96, 256, generator=generator)


def test_a_quick_product_is_right_to_its_roundings() -> None:
    x, w = factors()
    exact = x @ w.T
    with quick_products():
        quick = x @ w.T
    largest = x.abs() @ w.abs().T  # what no error of the factors can pass, times their rounding
    assert ((quick - exact).abs() <= 2.01 * ROUNDING * largest).all()
    assert torch.equal(quick, exact) != products.has_quick_products()


def test_gradients_are_quick_as_well() -> None:
    x, w = (each.requires_grad_() for each in factors())
    with quick_products():
        torch.nn.functional.linear(x, w).sum().backward()
    found = x.grad
    x.grad = None
    torch.nn.functional.linear(x, w).sum().backward()
    assert found is not None
    assert x.grad is not None
    torch.testing.assert_close(found, x.grad, rtol=0, atol=4 * ROUNDING * float(x.grad.abs().max()))


def test_afterwards_products_are_whole_also_behind_a_failure() -> None:
    x, w = factors()
    exact = x @ w.T
    with pytest.raises(ValueError, match="within"), quick_products():
        raise ValueError("within")
    assert torch.equal(x @ w.T, exact)
