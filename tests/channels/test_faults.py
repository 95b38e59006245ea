"""A fault of a rule is never told as a refusal; only sizes that do not fit are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from awqc.capture.module import capture_module
from awqc.channels import analysis
from awqc.channels.analysis import find_sites
from awqc.channels.flow import RULES, Flow
from awqc.channels.shapes import Shapes, SizesError
from awqc.program import Program
from tests.tiny import captured

RELU = torch.ops.aten.relu.default


Dynamic = Mapping[str, Mapping[int, Any]]


def sabotage(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def broken(flow: Flow, node: Any) -> None:
        raise error

    monkeypatch.setitem(RULES, RELU, broken)


def fixed(dynamic: bool) -> Program:
    """A small model, whose batch may vary or not."""
    module = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    axes: Dynamic | None = None if dynamic else {"input": {0: None}}
    return capture_module(module, (torch.randn(2, 4),), dynamic=axes)


@pytest.mark.parametrize("kind", [IndexError, KeyError, TypeError, ValueError, AttributeError,
                                  RuntimeError, AssertionError, ZeroDivisionError])  # fmt: skip
@pytest.mark.parametrize("dynamic", [True, False])
def test_what_a_broken_rule_raises_comes_out(
    kind: type[Exception], dynamic: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = fixed(dynamic)
    sabotage(monkeypatch, kind("out of range"))
    with pytest.raises(kind, match="out of range"):
        find_sites(program)


def test_sizes_that_do_not_fit_are_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    program = captured("mlp")
    sabotage(monkeypatch, SizesError("relu is empty"))
    wanted = "shapes that follow from dynamic axes cannot be worked out (relu is empty)"
    assert wanted in {site.reason for site in find_sites(program)}


class Net(nn.Module):
    """``second(middle(first(x)))``."""

    def __init__(self, middle: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.middle = middle

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.second(self.middle(self.first(x)).relu())
        return made


def parts(y: Tensor, size: int) -> list[Tensor]:
    return [y[:, i * size : (i + 1) * size] for i in range(4)]


UNFIT: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "a quarter of few": (
        lambda y: y.reshape(y.shape[0], y.shape[1] // 4, 4, 4).flatten(1, 2),
        "division by zero",
    ),
    "four parts of few": (lambda y: torch.cat(parts(y, y.shape[1] // 4), 1), "is empty"),
}


@pytest.mark.parametrize("name", UNFIT)
def test_the_sizes_of_the_example_serve_where_small_ones_do_not_fit(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    middle, reason = UNFIT[name]
    axes: Dynamic = {"x": {0: None, 1: None}}
    program = capture_module(Net(middle), (torch.randn(6, 16, 4),), dynamic=axes)
    sites = find_sites(program)
    assert [site.status for site in sites] == ["refused", "foldable"]
    monkeypatch.setattr(analysis, "Shapes", lambda small, *given: Shapes(True, *given))
    assert reason in find_sites(program)[1].reason


def test_chosen_sizes_alone_can_be_to_blame() -> None:
    program = captured("mlp")
    (batch,) = [n.meta["val"].shape[0] for n in program.graph.nodes if n.op == "placeholder"]
    chosen, given = Shapes(), Shapes(small=False)
    assert chosen.size(batch) != given.size(batch)
    with pytest.raises(SizesError, match="no"), chosen.fitting(RuntimeError):
        raise RuntimeError("no")
    with pytest.raises(RuntimeError, match="no"), given.fitting(RuntimeError):
        raise RuntimeError("no")
    with pytest.raises(IndexError), chosen.fitting(RuntimeError):
        raise IndexError
