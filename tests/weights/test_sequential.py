"""Sequential rounding: each weight sees what the quantized part before it gives."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from awqc.capture.module import capture_module
from awqc.errors import InvariantError, UsageError
from awqc.executor.run import Run
from awqc.passes.pipeline import parse_pipeline
from awqc.program import Batch, Program
from awqc.weights import sequential
from awqc.weights.jobs import QuantizedWeights, run_job

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
    plain, in_turn = program(), program()
    parse_pipeline(f"{FLOAT},{ROUND % ''}").run(plain, batches(plain))
    parse_pipeline(f"{FLOAT},{ROUND % ',sequential=true'}").run(in_turn, batches(in_turn))
    first = plain.findings.quantized["one.weight"].tensors["packed"]
    assert torch.equal(first, in_turn.findings.quantized["one.weight"].tensors["packed"])
    last = plain.findings.quantized["three.weight"].tensors["packed"]
    assert not torch.equal(last, in_turn.findings.quantized["three.weight"].tensors["packed"])
    assert error(in_turn) < error(plain)


class Drifting(nn.Module):
    """The first weight is read twice, so it is rounded to nearest, which loses half of it.

    In each group one value that nothing passes through is so large that the small ones become zero.
    """

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(32, 48), nn.Linear(48, 48)
        with torch.no_grad():
            self.one.weight[:, ::16] = 2.0

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.two(torch.relu(self.one(x)) + torch.relu(self.one(2 * x)))
        return out


def drifting() -> tuple[Program, list[Batch]]:
    torch.manual_seed(0)
    made = capture_module(Drifting(), (torch.ones(4, 32),))
    generator = torch.Generator().manual_seed(1)
    name = made.inputs[0].name
    passes = torch.ones(32)
    passes[::16] = 0
    return made, [{name: passes * torch.randn(64, 32, generator=generator)} for _ in range(12)]


def test_what_corrects_the_errors_before_it_is_no_fault_of_rounding() -> None:
    """The weights that are rounded are far from the model's own."""
    made, data = drifting()
    parse_pipeline(f"{FLOAT},{ROUND % ',sequential=true'}").run(made, data)
    assert set(made.findings.quantized) == {"one.weight", "two.weight"}


def test_a_fault_of_rounding_is_found_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def turned(*args: object) -> QuantizedWeights:
        return {
            name: weight.with_tensors({"packed": weight.tensors["packed"].flip(0)})
            for name, weight in run_job(*args).items()  # type: ignore[arg-type]  # as it is called
        }

    monkeypatch.setattr(sequential, "run_job", turned)
    made, data = drifting()
    with pytest.raises(InvariantError, match="weight: rounding leaves"):
        parse_pipeline(f"{FLOAT},{ROUND % ',sequential=true'}").run(made, data)


def test_it_needs_the_batches() -> None:
    made = program()
    pipeline = parse_pipeline(f"{FLOAT},{ROUND % ',sequential=true'}")
    for step in pipeline.passes[:-1]:
        step.apply(made, Run(tuple(batches(made))))
        made.tidy()
    with pytest.raises(UsageError, match="needs calibration data"):
        pipeline.passes[-1].apply(made)
