"""Running a graph node by node over all batches."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from awqc.executor.replay import walk
from awqc.graph.linears import find_linears
from tests.tiny import calibration, capture, run


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Linear(32, 48), nn.Linear(48, 48), nn.Linear(48, 16)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.one(x))
        out: Tensor = self.three(h + torch.relu(self.two(h)))
        return out


def test_it_walks_through_the_graph_as_the_graph_runs() -> None:
    """What arrives before the last product is what the program itself computes there."""
    model = Net()
    made = run(capture(model, torch.randn(4, 32)), "canonicalize")
    data = calibration(made, 3)
    linears = find_linears(made.graph)
    arrived: dict[str, list[Tensor]] = {}

    def before(node: object, values: list[Tensor]) -> dict[str, Tensor]:
        arrived[str(node)] = values
        return {}

    walk(made, data, {}, [linear.node for linear in linears], 0, before)
    name = made.inputs[0].name
    for batch, x in zip(data, arrived[linears[-1].node.name], strict=True):
        h = torch.relu(model.one(batch[name]))
        torch.testing.assert_close(x, h + torch.relu(model.two(h)))
