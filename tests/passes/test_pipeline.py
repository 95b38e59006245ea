"""What the pipeline does around passes, and the invariants that must fire when a pass is wrong."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from awqc.capture.module import capture_module
from awqc.errors import InvariantError
from awqc.executor.run import NO_DATA, Run
from awqc.passes.base import Change, Pass
from awqc.passes.insert_observers import InsertObservers
from awqc.passes.invariants import TOLERANCE, check_invariants, relative_change
from awqc.passes.pipeline import DEFAULT, PASSES, Pipeline, parse_pipeline
from awqc.passes.quantize_weights import QuantizeWeights
from awqc.program import Program
from tests.tiny import calibration, captured, run


def test_passes_are_frozen_and_named_for_their_class() -> None:
    for name, cls in PASSES.items():
        assert isinstance(cls(), Pass)
        words = "".join(word.title() for word in name.split("-"))
        assert (cls.__name__, cls.name) == (words, name)
        assert cls.__dataclass_params__.frozen
        module = cls.__module__.rpartition(".")[2]
        assert module == name.replace("-", "_")
        assert "before:" in str(cls.__doc__) or name in ("search-scales", "load-scales")
        assert all(field.default is not dataclasses.MISSING for field in dataclasses.fields(cls))


@dataclass(frozen=True)
class Wrong(Pass):
    """A pass that breaks something."""

    breaks: Callable[[Program], object]
    name: ClassVar[str] = "wrong"
    keeps_output: ClassVar[bool] = True

    def apply(self, program: Program, run: Run = NO_DATA) -> list[Change]:
        self.breaks(program)
        return [Change("everywhere", "broken")]


def _scale_one_row(program: Program) -> None:
    weight = program.weight("2.weight").clone()
    weight[3] *= 1.05
    program.set_weight("2.weight", weight)


def _poison(program: Program) -> None:
    program.set_weight("4.bias", torch.full((8,), float("nan")))


def _forget_shape(program: Program) -> None:
    del next(node for node in program.graph.nodes if node.op == "call_function").meta["val"]


def _call_method(program: Program) -> None:
    relu = next(node for node in program.graph.nodes if node.name == "relu")
    with program.graph.inserting_after(relu):
        call = program.graph.call_method("abs", (relu,))
    call.meta["val"] = relu.meta["val"]
    relu.replace_all_uses_with(call, lambda user: user is not call)


def _leave_observer(program: Program) -> None:
    run(program, "insert-observers,calibrate")
    InsertObservers().apply(program)


@pytest.mark.parametrize(
    ("breaks", "message"),
    [
        (_scale_one_row, r"after wrong: the output '.*' moved by"),
        (_poison, r"after wrong: the output '.*' moved by nan"),
        (_forget_shape, "after wrong: linear has no shape and dtype"),
        (_call_method, "after wrong: .* is a call_method"),
        (_leave_observer, "after wrong: the observer .* is still there"),
    ],
)
def test_a_wrong_pass_is_named(breaks: Callable[[Program], object], message: str) -> None:
    program = captured("mlp")
    with pytest.raises(InvariantError, match=message) as error:
        Pipeline((Wrong(breaks),)).run(program)
    if "output" in message:
        assert repr(program.outputs[0]) in str(error.value)


class Amplifying(nn.Module):
    """The small difference of two large values: rounding shows in it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm = nn.RMSNorm(32)
        self.one, self.two = (nn.Linear(32, 8, bias=False) for _ in range(2))
        self.two.weight.data = self.one.weight + 2e-5 * torch.randn(8, 32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.norm(x)
        return torch.sub(self.one(h), self.two(h))


def test_what_rounding_does_to_a_model_is_measured_before_it_is_blamed() -> None:
    program = capture_module(Amplifying().eval(), (torch.randn(16, 32),))
    run(program, "canonicalize")

    def fold(program: Program, wrong: float = 1.0) -> None:
        scale = torch.linspace(0.3, 3.0, 32)
        program.set_weight("norm.weight", program.weight("norm.weight") / scale * wrong)
        for name in ("one.weight", "two.weight"):
            program.set_weight(name, program.weight(name) * scale)

    (before,) = program.run(program.example)
    Pipeline((Wrong(fold),), program.findings.facts).run(program)
    assert relative_change(program.run(program.example)[0], before) > 2 * TOLERANCE
    with pytest.raises(InvariantError, match="rounding explains"):
        Pipeline((Wrong(partial(fold, wrong=1.05)),), program.findings.facts).run(program)


def _break_qparams(program: Program, **tensors: Any) -> None:
    name, quantized = next(iter(program.findings.quantized.items()))
    broken = {name: quantized.with_tensors(tensors)}
    program.learn(quantized={**program.findings.quantized, **broken})


def test_a_code_beyond_its_bits_is_found() -> None:
    program = run(captured("mlp"), "canonicalize,quantize-weights{bits=3}")
    step = QuantizeWeights()
    weight = next(iter(program.findings.quantized.values()))
    _break_qparams(program, packed=torch.full_like(weight.tensors["packed"], 0xFF))
    with pytest.raises(InvariantError, match="a code beyond its bits"):
        check_invariants(program, step)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("scale", torch.ones(32, 2), "has scale \\(32, 2\\), needs"),
        ("scale", torch.zeros(32, 1), "a scale that is not positive"),
        ("scale", torch.full((32, 1), float("inf")), "a scale that is not positive"),
        ("zero_point", torch.zeros(32, 3, dtype=torch.uint8), "0.weight"),
    ],
)
def test_qparams_that_do_not_fit_are_found(field: str, value: torch.Tensor, message: str) -> None:
    program = run(captured("mlp"), "canonicalize,quantize-weights")
    step = QuantizeWeights()
    check_invariants(program, step)
    _break_qparams(program, **{field: value})
    with pytest.raises(InvariantError, match=message):
        check_invariants(program, step)


def test_rounding_passes_the_check_and_more_does_not() -> None:
    before = torch.randn(100)
    assert relative_change(before * (1 + 0.5 * TOLERANCE), before) < TOLERANCE
    assert relative_change(before * (1 + 2 * TOLERANCE), before) > TOLERANCE
    assert relative_change(before[:50], before) == float("inf")
    same = torch.tensor([float("inf"), float("nan"), 1.0])
    assert relative_change(same, same.clone()) == 0
    assert not relative_change(torch.tensor([1.0, 1.0, 1.0]), same) <= TOLERANCE
    nothing, empty = torch.zeros(3), torch.zeros(0)
    assert relative_change(nothing, nothing) == relative_change(empty, empty) == 0


def test_a_constant_under_an_output_hides_no_change_and_its_rounding_is_none() -> None:
    varied = torch.randn(100, dtype=torch.float64)
    before = (varied + 1e4).float()
    rounded = before + 2 * torch.finfo(torch.float32).eps * 1e4 * torch.randn(100).sign()
    assert relative_change(rounded, before) == 0
    assert relative_change((varied * 1.05 + 1e4).float(), before) > 0.01
    assert relative_change(torch.full((5,), 2.002), torch.full((5,), 2.0)) > 9e-4


def test_observe_sees_each_pass_before_and_after() -> None:
    seen = []
    program = captured("mlp")
    parse_pipeline(DEFAULT).run(
        program,
        calibration(program),
        lambda step, before, after, made: seen.append((step.name, len(before.findings.quantized))),
    )
    assert [name for name, _ in seen] == DEFAULT.split(",")
    assert [count for _, count in seen] == [0] * 6


def test_time_is_taken_of_every_pass() -> None:
    pipeline = parse_pipeline(DEFAULT)
    program = captured("mlp")
    pipeline.run(program, calibration(program))
    assert list(pipeline.timing) == DEFAULT.split(",")


def test_the_users_module_is_not_changed() -> None:
    from tests.tiny import capture, inputs, model

    module = model("gated")
    before = {name: value.clone() for name, value in module.state_dict().items()}
    run(capture(module, inputs("gated")), DEFAULT)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
