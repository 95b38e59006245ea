"""The teacher gives what the float model gives, and holds no more of it than its last piece."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from awqc.findings import Teacher
from awqc.program import Program
from awqc.weights.tuning import teacher as module
from awqc.weights.tuning.teacher import take_teacher
from tests.executor.test_segments import decoder
from tests.tiny import SEARCHED, calibration, capture, captured, run

MODELS = ("mlp", "gated", "attention", "postnorm", "conv")


def told(teacher: Teacher) -> list[tuple[Tensor, ...]]:
    """The outputs that the teacher tells, a batch after the other."""
    with torch.no_grad():
        return [tuple(teacher.head(*each.values, *teacher.weights)) for each in teacher.lessons]


def made(name: str) -> Program:
    return run(decoder() if name == "decoder" else captured(name), "canonicalize")


@pytest.mark.parametrize("name", [*MODELS, "decoder"])
def test_it_tells_the_outputs_of_the_float_model(name: str) -> None:
    program = made(name)
    batches = calibration(program, 3)
    teacher = take_teacher(program, batches)
    wanted = [program.run(batch) for batch in batches]
    run(program, "quantize-weights{bits=3}", batches)
    assert [lesson.batch for lesson in teacher.lessons] == batches
    for now, then in zip(told(teacher), wanted, strict=True):
        torch.testing.assert_close(now, then, rtol=0, atol=0)


def test_before_folding_and_after_it_tells_the_same() -> None:
    program = decoder()
    batches = calibration(program, 2)
    run(program, SEARCHED, batches)
    before = told(take_teacher(program, batches))
    run(program, "fold-scales", batches)
    for now, then in zip(told(take_teacher(program, batches)), before, strict=True):
        torch.testing.assert_close(now, then, rtol=1e-4, atol=1e-5)


def test_it_holds_the_weights_of_the_last_piece_alone_and_copies_none() -> None:
    program = made("decoder")
    teacher = take_teacher(program, calibration(program, 1))
    held = {tensor.data_ptr() for tensor in (*teacher.weights, *teacher.head.parameters())}
    held |= {tensor.data_ptr() for tensor in teacher.head.buffers()}
    head = {program.weight(name).data_ptr() for name in program.parameters() if "head" in name}
    assert len(head) == 2
    assert held == head


def test_beyond_the_bound_what_it_knows_lies_in_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    program = made("decoder")
    batches = calibration(program, 2)
    near = told(take_teacher(program, batches))
    monkeypatch.setattr(module, "BOUND", 0)
    far = take_teacher(program, batches)
    for now, then in zip(told(far), near, strict=True):
        torch.testing.assert_close(now, then, rtol=0, atol=0)


def test_a_table_that_the_only_piece_looks_up_in_stays_in_it() -> None:
    """A head that is the table as well, in a program with no place to cut."""

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = nn.Embedding(48, 16), nn.Linear(16, 48, bias=False)
            self.head.weight = self.table.weight

        def forward(self, ids: Tensor) -> Tensor:
            out: Tensor = self.head(torch.relu(self.table(ids)))
            return out

    program = run(capture(Tied().eval(), torch.arange(6).reshape(2, 3)), "canonicalize")
    batch = {program.inputs[0].name: torch.tensor([[1, 5, 7]])}
    teacher = take_teacher(program, [batch])
    (taught,) = teacher.head(*teacher.lessons[0].values, *teacher.weights)
    assert torch.equal(taught, program.run(batch)[0])
