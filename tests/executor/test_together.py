"""Batches of different sizes at once give what each gives alone, and make each weight once."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from awqc.executor.together import run_together
from awqc.passes.pipeline import DEFAULT
from awqc.program import Batch, Program
from tests.tiny import calibration, capture, run
from tests.verify.test_steps import captured_decoder


class Net(nn.Module):
    """A product of every kind: with a bias, of a matrix with itself, of what two inputs give."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(32, 48), nn.Linear(48, 32, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = torch.relu(self.one(x))
        return self.two(h), nn.functional.linear(h, h), self.one.weight.sum(0)


def quantized() -> Program:
    torch.manual_seed(0)
    program = capture(Net().eval(), torch.randn(4, 32))
    run(program, DEFAULT, calibration(program))
    return program


def sized(program: Program, rows: int) -> Batch:
    torch.manual_seed(rows)
    return {program.inputs[0].name: torch.randn(rows, 32)}


def test_each_batch_gets_what_it_gets_alone() -> None:
    program = quantized()
    batches = [sized(program, rows) for rows in (1, 7, 0, 4)]
    for batch, outputs in zip(batches, run_together(program, batches), strict=True):
        for found, wanted in zip(outputs, program.run(batch), strict=True):
            torch.testing.assert_close(found, wanted)
    assert run_together(program, []) == []


def test_a_decoder_reads_batches_with_pasts_of_several_lengths() -> None:
    program = captured_decoder()
    batches: list[Batch] = []
    for rows, past, tokens in ((1, 0, 3), (2, 5, 1)):
        batches.append({
            "input_ids": torch.arange(rows * tokens).reshape(rows, tokens) % 20,
            "attention_mask": torch.ones(rows, past + tokens, dtype=torch.long),
            "past": torch.randn(rows, 1, past, 16),
        })  # fmt: skip
    for batch, outputs in zip(batches, run_together(program, batches), strict=True):
        for found, wanted in zip(outputs, program.run(batch), strict=True):
            torch.testing.assert_close(found, wanted)


def test_a_weight_is_dequantized_once(monkeypatch: pytest.MonkeyPatch) -> None:
    program = quantized()
    made: list[str] = []
    for node in program.graph.nodes:
        if "dequantize" in str(node.target):
            node.target = _counting(node.target, made)
    run_together(program, [sized(program, rows) for rows in (1, 7, 4)])
    assert len(made) == 2


def _counting(target: object, made: list[str]) -> object:
    def call(*args: object, **kwargs: object) -> object:
        made.append(str(target))
        return target(*args, **kwargs)  # type: ignore[operator]  # an operation

    return call
