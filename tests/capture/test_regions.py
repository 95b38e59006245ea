"""Contexts and maps inside forward are opened up; other calls on functions are refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import awqc
from awqc.errors import UnsupportedGraphError

Layers = Callable[[Tensor], Tensor]


class Net(nn.Module):
    """Two layers, called by the forward that a test gives."""

    def __init__(self, body: Callable[[Layers, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 8))
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self.layers, x)


def in_half(layers: Layers, x: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        made = layers(x)
    return made.float()  # torch puts a check of the dtype before the cast


def without_gradients(layers: Layers, x: Tensor) -> Tensor:
    with torch.no_grad():
        inner = layers(x)
    return inner + layers(x)


def mapped(layers: Layers, x: Tensor) -> Tensor:
    out: Tensor = torch.vmap(layers)(x)
    return out


@pytest.mark.parametrize("body", [in_half, without_gradients, mapped])
def test_what_stands_around_operations_is_opened_up(body: Any) -> None:
    x = torch.randn(6, 16)
    compiled = awqc.compile(
        Net(body), (x,), calib=[(x,)], effort="fast", formats=("onnx", "pt2"), provider="cpu"
    )
    assert {layer["bits"] for layer in compiled.report["layers"]} == {4}
    assert len(compiled.report["layers"]) == 2
    wanted = Net(body)(x).float()
    error = (compiled.graph_module(x) - wanted).norm() / wanted.norm()
    assert error < 0.15  # 4 bits; what is quantized is the whole of it


def branching(layers: Layers, x: Tensor) -> Tensor:
    out: Tensor = torch.cond(x.sum() > 0, lambda a: a + 1, lambda a: a - 1, (layers(x),))
    return out


def test_functions_as_operands_are_refused_by_name() -> None:
    with pytest.raises(
        UnsupportedGraphError, match=r"cond \(in forward\).*choose with torch\.where"
    ):
        awqc.compile(Net(branching), (torch.randn(6, 16),))
