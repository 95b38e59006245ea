"""A captured graph is compared with the module that it was captured from."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from awqc.capture.agreement import check_agreement
from awqc.capture.module import capture_module
from awqc.errors import CaptureError, UsageError


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)
        self.calls = 0


class Counting(Base):
    """Its result depends on how often it was called."""

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        out: Tensor = self.linear(x) * self.calls
        return out


class Branch(Base):
    """torch.export follows the branch of the example's size, and drops the condition."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear(x)
        return 2 * out if x.shape[0] > self.most else out


class Table(Base):
    """Takes as many rows as it has positions, and fails on more."""

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[0] > 50:
            raise ValueError("too many rows")
        out: Tensor = self.linear(x)
        return out


class Noisy(Base):
    def __init__(self, size: float) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear(x) + self.size * torch.randn(8)
        return out


def test_a_model_that_counts_its_calls_is_refused() -> None:
    with pytest.raises(CaptureError, match="something else than the model"):
        capture_module(Counting(), (torch.randn(4, 8),))


@pytest.mark.parametrize(
    ("most", "where"), [(4, "axis 0 of x = 5"), (2, "axis 0 of x = 1"), (50, "axis 0 of x = 51")]
)
def test_a_size_that_decides_between_branches_is_fixed(most: int, where: str) -> None:
    program = capture_module(Branch(most), (torch.randn(4, 8),))
    assert program.inputs[0].shape == (4, 8)
    assert where in program.notes[0]
    assert "axis 0 of x is fixed at the example's size" in program.notes[0]


def test_a_dynamic_axis_that_holds_for_one_size_is_refused_with_the_reason() -> None:
    with pytest.raises(UsageError, match=r"fixes axis 0 at 4.*with axis 0 of x = 5"):
        capture_module(Branch(4), (torch.randn(4, 8),), dynamic={"x": [0]})


def test_a_dynamic_axis_that_holds_in_a_range_stays_and_the_edge_is_told() -> None:
    program = capture_module(Branch(50), (torch.randn(4, 8),), dynamic={"x": [0]})
    assert program.inputs[0].shape == ("batch", 8)
    assert "axis 0 of x = 51" in program.notes[0]
    assert "wrong there" in program.notes[0]


def test_sizes_that_the_model_refuses_fix_nothing() -> None:
    assert capture_module(Table(), (torch.randn(4, 8),)).inputs[0].shape == ("batch", 8)


def test_noise_that_the_outputs_show_is_refused_with_its_place() -> None:
    with pytest.raises(CaptureError, match=r"differ from run to run.*\(randn"):
        capture_module(Noisy(1.0), (torch.randn(4, 8),))


def test_noise_that_the_outputs_hardly_show_is_no_disagreement() -> None:
    program = capture_module(Noisy(1e-7), (torch.randn(4, 8),))
    assert program.inputs[0].shape[0] == "batch"


class Dropping(Base):
    """Nothing is drawn in eval mode, whatever the operations could draw elsewhere."""

    def forward(self, x: Tensor) -> Tensor:
        y = nn.functional.dropout(self.linear(x), 0.5, self.training)
        out: Tensor = nn.functional.scaled_dot_product_attention(y, y, y)
        return out


@pytest.mark.parametrize(("model", "runs"), [(Dropping(), 1), (Noisy(1e-7), 3)])
def test_a_graph_runs_once_on_the_example_where_nothing_is_drawn(
    model: nn.Module, runs: int
) -> None:
    program = capture_module(model, (torch.randn(1, 4, 8),))
    calls: list[object] = []
    program.graph_module.register_forward_pre_hook(lambda *_: calls.append(1))
    check_agreement(model.eval(), program)
    assert len(calls) == runs
