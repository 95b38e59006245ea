"""Moving a graph to another device; torch's meta device stands for one that is not here."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule

from awqc.capture.module import capture_module
from awqc.errors import UsageError
from awqc.machine.devices import parse_device, place


class Positions(nn.Module):
    """Makes tensors on the way, and reads a parameter and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(16, 8)
        self.mix = nn.Linear(8, 8)
        self.register_buffer("shift", torch.ones(8))

    def forward(self, ids: Tensor) -> Tensor:
        places = torch.arange(ids.shape[1], device=ids.device)
        mask = torch.full((ids.shape[1],), 2.0, dtype=torch.float64).to("cpu", torch.float32)
        found = self.mix(self.table(ids + places) + self.shift) * mask[:, None]
        assert isinstance(found, Tensor)
        return found


def test_all_that_a_graph_reads_and_makes_is_on_the_device() -> None:
    program = capture_module(Positions(), (torch.zeros(2, 5, dtype=torch.int64),))
    graph = Graph()
    graph.output(graph.graph_copy(program.graph, {}))
    copied = GraphModule(program.graph_module, graph)
    place(copied, torch.device("meta"))
    (found,) = copied(torch.zeros(2, 5, dtype=torch.int64, device="meta"))
    assert (found.device.type, found.shape) == ("meta", (2, 5, 8))
    assert {tensor.device.type for tensor in program.parameters().values()} == {"cpu"}
    assert program.run(program.example)[0].isfinite().all()


def test_devices_are_refused_rather_than_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse_device("cpu") == torch.device("cpu")
    for name in ("abacus", "meta", "cuda:x"):
        with pytest.raises(UsageError, match="give cpu, cuda, or cuda:N"):
            parse_device(name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="finds no CUDA device; use device='cpu'"):
        parse_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UsageError, match="there are 1 CUDA devices"):
        parse_device("cuda:1")
