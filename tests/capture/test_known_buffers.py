"""Code may decide by what a buffer holds, as long as it holds that always."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from awqc.capture.module import capture_module
from awqc.errors import UnsupportedGraphError


class Deciding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.register_buffer("share", torch.tensor([0.0, 0.5]))

    def forward(self, x: Tensor) -> Tensor:
        made = self.layer(x)
        for index in range(2):
            if self.get_buffer("share")[index] > 0:
                made = made * 2 + self.get_buffer("share")[index]
        out: Tensor = made
        return out


def test_a_branch_on_a_buffer_is_the_one_that_it_holds() -> None:
    module = Deciding()
    program = capture_module(module, (torch.randn(3, 4),))
    program.tidy()
    names = [str(node.target) for node in program.graph.nodes]
    assert names.count("aten.mul.Tensor") == 1
    assert not any("item" in name for name in names)
    x = torch.randn(5, 4)
    (found,) = program.run({"x": x})
    assert torch.allclose(found, module.eval()(x), atol=1e-6)


def test_a_buffer_that_forward_writes_into_decides_nothing() -> None:
    class Counting(Deciding):
        def forward(self, x: Tensor) -> Tensor:
            self.get_buffer("share").add_(x.mean())
            return super().forward(x)

    with pytest.raises(UnsupportedGraphError, match="writes to the buffer 'share'"):
        capture_module(Counting(), (torch.randn(3, 4),))
