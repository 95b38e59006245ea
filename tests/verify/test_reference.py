"""What the float model gives on data that the loss is judged by."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from awqc.capture.module import capture_module
from awqc.errors import CalibrationError
from awqc.verify.reference import take_reference


class OfThree(nn.Module):
    def forward(self, input: Tensor) -> Tensor:
        return input.reshape(3, 4).sum(dim=0)


def test_data_of_another_size_than_the_graph_is_refused_with_the_axis() -> None:
    program = capture_module(OfThree(), (torch.zeros(3, 4),), name="net")
    with pytest.raises(CalibrationError, match="axis 0 of input is 2, and the graph is for 3 alon"):
        take_reference(program, [{"input": torch.zeros(2, 4)}])
