"""Sequential rounding: each weight sees what the quantized part before it gives."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from awqc.capture.module import capture_module
from awqc.errors import UsageError
from awqc.executor.run import Run
from awqc.passes.pipeline import parse_pipeline
from awqc.program import Batch, Program

FLOAT = "canonicalize,insert-observers{gram=true},calibrate"
ROUND = "quantize-weights{bits=2,group-size=16,rounding=gptq%s}"


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Linear(32, 48), nn.Linear(48, 48), nn.Linear(48, 16)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.one(x))
        out: Tensor = self.three(h + torch.relu(self.two(h)))
        return out


def program() -> Program:
    torch.manual_seed(0)
    return capture_module(Net(), (torch.randn(4, 32),))


def batches(made: Program, count: int = 12) -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    name = made.inputs[0].name
    return [{name: torch.randn(64, 32, generator=generator)} for _ in range(count)]


def error(made: Program) -> float:
    torch.manual_seed(0)
    model = Net()
    x = torch.randn(500, 32, generator=torch.Generator().manual_seed(5))
    wanted = model(x).detach()
    return float((made.run({made.inputs[0].name: x})[0] - wanted).norm() / wanted.norm())


def test_errors_pile_up_less() -> None:
    plain, sequential = program(), program()
    parse_pipeline(f"{FLOAT},{ROUND % ''}").run(plain, batches(plain))
    parse_pipeline(f"{FLOAT},{ROUND % ',sequential=true'}").run(sequential, batches(sequential))
    first = plain.findings.quantized["one.weight"].tensors["packed"]
    assert torch.equal(first, sequential.findings.quantized["one.weight"].tensors["packed"])
    last = plain.findings.quantized["three.weight"].tensors["packed"]
    assert not torch.equal(last, sequential.findings.quantized["three.weight"].tensors["packed"])
    assert error(sequential) < error(plain)


def test_it_needs_the_batches() -> None:
    made = program()
    pipeline = parse_pipeline(f"{FLOAT},{ROUND % ',sequential=true'}")
    for step in pipeline.passes[:-1]:
        step.apply(made, Run(tuple(batches(made))))
        made.tidy()
    with pytest.raises(UsageError, match="needs calibration data"):
        pipeline.passes[-1].apply(made)
