"""A checkpoint's model computes with the program's weights, whoever reads them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from awqc.huggingface.checkpoint import Checkpoint, _logits
from awqc.huggingface.layout import Layout
from awqc.numerics.formats.int_grid import IntGrid
from awqc.program import Program
from tests.export.quantizing import captured, quantized


class Model(nn.Module):
    """A table, an inner layer and a head; ``fault`` says how the model reads their weights."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.table, self.inner = nn.Embedding(24, 32), nn.Linear(32, 32)
        self.head = nn.Linear(32, 24, bias=False)
        if way == "shared":
            self.head.weight = self.table.weight

    def forward(self, input_ids: Tensor, use_cache: bool = False) -> SimpleNamespace:
        x = self.table(input_ids)
        if self.way == "read by another":
            x = nn.functional.linear(x, self.inner.weight, self.inner.bias)
        else:
            x = self.inner(x)
        return SimpleNamespace(logits=self.head(x))


class Logits(nn.Module):
    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor) -> Tensor:
        out: Tensor = self.model(input_ids).logits
        return out


def renamed(program: Program) -> Program:
    """Weights by the names that the model has."""
    names = {name.removeprefix("model."): w for name, w in program.findings.quantized.items()}
    program.learn(quantized=names)
    return program


@pytest.mark.parametrize("way", ["plain", "shared", "read by another"])
def test_the_model_computes_with_the_programs_weights(way: str) -> None:
    torch.manual_seed(0)
    model, ids = Model(way), torch.randint(24, (2, 5))
    program = renamed(quantized(captured(Logits(model), ids), IntGrid(4, 16)))
    wanted = program.run({program.inputs[0].name: ids})[0]
    state = model.state_dict()
    before = {name: value.clone() for name, value in state.items()}
    layouts = dict.fromkeys(program.findings.quantized, Layout())
    with torch.no_grad():
        found = _logits(Checkpoint(program, model, state, {}, layouts), ids)
        own = model(ids).logits
    torch.testing.assert_close(found, wanted)
    assert float((own - wanted).abs().max()) > 0.01, "rounding is to be seen"
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
