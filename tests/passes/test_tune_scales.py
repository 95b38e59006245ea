"""tune-scales brings the whole model's outputs closer, and gives up where it cannot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import nn

from awqc.capture.module import capture_module
from awqc.errors import UsageError
from awqc.executor.run import Bounds, Run
from awqc.findings import Allocation, Teacher
from awqc.machine.strict import FallbackError
from awqc.numerics.formats.int_grid import IntGrid
from awqc.numerics.quantizing import quantize
from awqc.passes.pipeline import parse_pipeline
from awqc.passes.tune_scales import TuneScales
from awqc.program import Batch, Program, Task
from awqc.weights.tuning.dequantize import TunedWeight, dequantize
from awqc.weights.tuning.objective import distance
from awqc.weights.tuning.scales import TunedScales
from awqc.weights.tuning.student import Student
from awqc.weights.tuning.teacher import take_teacher

CODES = "quantize-weights{bits=3,group-size=16,keep-float=true}"
TUNED = f"canonicalize,{CODES},tune-scales"


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(40), nn.Linear(40, 96), nn.Linear(96, 24)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.down(torch.relu(self.up(self.norm(x))))
        return out


def data(program: Program, batches: int = 40) -> Run:
    generator = torch.Generator().manual_seed(1)
    name = program.inputs[0].name
    return Run(tuple({name: torch.randn(32, 40, generator=generator)} for _ in range(batches)))


def quantized(allocation: Allocation | None = None) -> tuple[Program, Run]:
    """The program with its codes, and the data that it was quantized with."""
    torch.manual_seed(0)
    program = capture_module(Net(), (torch.randn(4, 40),))
    program.learn(allocation=allocation)
    run = data(program)
    return with_codes(program, run, CODES), run


def with_codes(program: Program, run: Run, codes: str) -> Program:
    """``program`` as tune-scales finds it in a pipeline."""
    parse_pipeline("canonicalize").run(program)
    program.learn(teacher=take_teacher(program, run.batches))
    parse_pipeline(codes).run(program, run.batches)
    return program


def far(program: Program, seed: int = 9) -> float:
    """Relative distance from the float model on data that nobody tuned on."""
    torch.manual_seed(0)
    model = Net()
    x = torch.randn(64, 40, generator=torch.Generator().manual_seed(seed))
    wanted = model(x).detach()
    now = program.run({program.inputs[0].name: x})[0]
    return float((now - wanted).norm() / wanted.norm())


def test_other_data_comes_closer_and_codes_stay() -> None:
    program, run = quantized()
    before = far(program)
    codes = program.findings.quantized["up.weight"].tensors["packed"].clone()
    changes = TuneScales(rate=0.003, step=2).apply(program, run)
    assert not changes[0].refused
    assert far(program) < 0.95 * before
    weight = program.findings.quantized["up.weight"]
    assert torch.equal(weight.tensors["packed"], codes)
    assert torch.equal(program.weight("up.weight.scale"), weight.tensors["scale"])
    assert program.findings.teacher is None


def test_factors_of_a_named_format_are_tuned() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 32))
    program = capture_module(model, (torch.randn(4, 256),))
    name = program.inputs[0].name
    run = Run(batches=tuple({name: torch.randn(32, 256)} for _ in range(30)))
    with_codes(program, run, "quantize-weights{weight-format=Q4_K,keep-float=true}")
    before = program.findings.quantized
    x = torch.randn(64, 256)

    def distant() -> float:
        return float((program.run({name: x})[0] - model(x).detach()).norm())

    untuned = distant()
    changes = TuneScales(rate=0.003, step=2).apply(program, run)
    assert not changes[0].refused
    assert distant() < 0.97 * untuned
    for key, weight in program.findings.quantized.items():
        assert torch.equal(weight.tensors["packed"], before[key].tensors["packed"])
        for role in ("d", "dmin"):
            tuned = weight.tensors[role]
            assert not torch.equal(tuned, before[key].tensors[role])
            assert torch.equal(tuned, tuned.half().float())
            assert torch.equal(program.weight(f"{key}.{role}"), tuned)


def test_scales_that_do_not_help_are_dropped() -> None:
    program, run = quantized()
    before = program.findings.quantized
    changes = TuneScales(rate=0.9).apply(program, run)
    assert changes[0].refused
    assert all(program.findings.quantized[name] is weight for name, weight in before.items())


def test_scales_of_8_bit_codes_stay() -> None:
    program, run = quantized(allocation=Allocation({"down.weight": 8}))
    before = program.findings.quantized
    changes = TuneScales(rate=0.003).apply(program, run)
    assert not changes[0].refused
    assert program.findings.quantized["down.weight"] is before["down.weight"]
    assert program.findings.quantized["up.weight"] is not before["up.weight"]


def test_without_a_teacher_or_the_data_that_it_knows_it_refuses() -> None:
    program, run = quantized()
    other = data(program)
    teacher = program.findings.teacher
    for given, taught in ((run, None), (Run(), teacher), (other, teacher)):
        program.learn(teacher=taught)
        with pytest.raises(UsageError, match=r"keep-float.* calibration data"):
            TuneScales().apply(program, given)


def test_where_memory_is_short_it_says_how_much_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three times the larger weight, and one value that lives between the two products."""
    program, run = quantized()
    teacher, before = program.findings.teacher, program.findings.quantized
    assert teacher is not None
    needed = Student(program, teacher, TunedScales(program)).bytes_needed(teacher.lessons[0])
    assert needed == 4 * (3 * 96 * 40 + 32 * 96)
    monkeypatch.setattr("awqc.passes.tune_scales.free_on", lambda device: needed - 1)
    (change,) = TuneScales().apply(program, run)
    assert change.refused
    assert change.what == (
        "stay, gradients through the model need at least 0.1 MB, 0.1 MB are free"
    )
    assert program.findings.quantized is before
    program.learn(teacher=teacher)
    monkeypatch.setattr("awqc.passes.tune_scales.free_on", lambda device: needed)
    tight = replace(run, bounds=Bounds(limit=0))
    (change,) = TuneScales().apply(program, tight)
    assert "stay, gradients" in change.what
    program.learn(teacher=teacher)
    assert not TuneScales(rate=0.003).apply(program, run)[0].refused


TAUGHT = [("bits=3", 0.1, 7), ("bits=3", 0.5, 20), ("bits=8", 1.0, None)]


@pytest.mark.parametrize(("bits", "share", "count"), TAUGHT)
def test_the_pipeline_records_what_will_be_used(
    bits: str, share: float, count: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first batches, and none where no weight is to be tuned or nobody tunes."""
    taken: list[Sequence[Batch]] = []

    def noted(
        program: Program, batches: Sequence[Batch], device: torch.device, bound: int
    ) -> Teacher:
        taken.append(batches)
        assert bound == Bounds().lessons
        return take_teacher(program, batches, device, bound)

    monkeypatch.setattr("awqc.passes.pipeline.take_teacher", noted)
    codes = f"canonicalize,quantize-weights{{{bits},group-size=16,keep-float=true}}"
    for spec in (codes, f"{codes},tune-scales{{share={share}}}"):
        program = capture_module(Net(), (torch.randn(4, 40),))
        run = data(program)
        parse_pipeline(spec).run(program, run.batches)
        assert program.findings.teacher is None
    assert taken == ([] if count is None else [run.batches[:count]])


@pytest.mark.parametrize("columns", [32, 40])
@pytest.mark.parametrize("symmetric", [False, True])
def test_gradients_are_those_of_dequantizing(columns: int, symmetric: bool) -> None:
    """Against autograd through the plain expression, ragged groups included."""
    weight = quantize(torch.randn(5, columns), 5, IntGrid(4, 16, symmetric))
    scale = weight.tensors["scale"].clone().requires_grad_()
    upstream = torch.randn(5, columns)
    dequantize(weight, {"scale": scale}).backward(upstream)
    plain = weight.tensors["scale"].clone().requires_grad_()
    zero = torch.full_like(plain, 8.0) if symmetric else weight.tensors["zero_point"]
    steps = weight.codes.float() - zero.repeat_interleave(16, 1)[:, :columns]
    (steps * plain.repeat_interleave(16, 1)[:, :columns]).backward(upstream)
    assert scale.grad is not None
    assert plain.grad is not None
    assert torch.allclose(scale.grad, plain.grad, atol=1e-5)
    assert torch.equal(dequantize(weight, weight.tensors), weight.dequantize())


def test_rows_that_are_looked_up_are_those_of_the_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    """With their gradients; large weights are made and gone through a few rows at a time."""
    weight = quantize(torch.randn(9, 32), 9, IntGrid(4, 16))
    ids = torch.tensor([[4, 0, 4], [8, 8, 1]])
    upstream = torch.randn(2, 3, 32)
    scales = [weight.tensors["scale"].clone().requires_grad_() for _ in range(2)]
    dequantize(weight, {"scale": scales[0]})[ids].backward(upstream)
    monkeypatch.setattr("awqc.weights.tuning.dequantize.ELEMENTS", 64)
    tuned = TunedWeight(weight, {"scale": scales[1]})
    assert torch.equal(tuned.whole(), weight.dequantize())
    rows = tuned.look_up(ids)
    assert torch.equal(rows, weight.dequantize()[ids])
    rows.backward(upstream)
    assert scales[0].grad is not None
    assert scales[1].grad is not None
    torch.testing.assert_close(scales[1].grad, scales[0].grad)


def test_logits_count_by_divergence_and_others_by_their_size() -> None:
    program, _ = quantized()
    now, then = torch.randn(6, 24), torch.randn(6, 24)
    relative = float((now - then).square().sum() / then.square().sum())
    assert float(distance(program, {}, (now,), (then,))) == pytest.approx(relative)
    program.task = Task(head_outputs=program.outputs)
    expected = nn.functional.kl_div(
        now.log_softmax(-1), then.log_softmax(-1), log_target=True, reduction="batchmean"
    )
    assert float(distance(program, {}, (now,), (then,))) == pytest.approx(float(expected))
    assert float(distance(program, {}, (then,), (then,))) == 0


def test_the_gradient_of_divergence_is_autograds() -> None:
    program, _ = quantized()
    program.task = Task(head_outputs=program.outputs)
    now, then = torch.randn(2, 70, 24, requires_grad=True), torch.randn(2, 70, 24)
    (3 * distance(program, {}, (now,), (then,))).backward()
    plain = now.detach().clone().requires_grad_()
    logs = plain.flatten(0, 1).log_softmax(-1), then.flatten(0, 1).log_softmax(-1)
    (3 * nn.functional.kl_div(*logs, log_target=True, reduction="batchmean")).backward()
    assert now.grad is not None
    assert plain.grad is not None
    torch.testing.assert_close(now.grad, plain.grad, rtol=1e-4, atol=1e-8)


class Copying(Net):
    """Writes into a new tensor, which makes an operation without a derivative."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.up(self.norm(x))
        out: torch.Tensor = self.down(torch.empty_like(h).copy_(torch.relu(h)))
        return out


REASON = "the operation aten::copy has no derivative"


@pytest.mark.fallbacks
def test_without_a_derivative_scales_stay_and_the_reason_is_said() -> None:
    torch.manual_seed(0)
    program = capture_module(Copying(), (torch.randn(4, 40),))
    parse_pipeline(TUNED).run(program, data(program).batches)
    found = program.findings.tuning
    assert found is not None
    assert (found.kept, found.reason) == (False, REASON)
    assert program.notes == (f"scales are not tuned: {REASON}",)


@pytest.mark.fallbacks
def test_without_a_derivative_widths_follow_the_error_of_each_weight() -> None:
    torch.manual_seed(0)
    program = capture_module(Copying(), (torch.randn(4, 40),))
    spec = "canonicalize,insert-observers,calibrate,allocate-bits{avg-bits=6}"
    parse_pipeline(spec).run(program, data(program).batches)
    assert program.findings.allocation is not None
    assert set(program.findings.allocation.widths) == {"up.weight", "down.weight"}
    assert any(REASON in note for note in program.notes)


def test_where_no_fallback_is_allowed_it_is_an_error() -> None:
    program = capture_module(Copying(), (torch.randn(4, 40),))
    with pytest.raises(FallbackError, match=REASON):
        parse_pipeline(TUNED).run(program, data(program).batches)
