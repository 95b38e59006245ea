"""A whole program on another device gives what it gives on the CPU.

No such device is needed: `tests.elsewhere` computes on the CPU, and refuses what a real one would.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor

from awqc.executor import resident as place
from awqc.executor.resident import resident
from awqc.executor.together import run_together
from awqc.machine.devices import CPU
from awqc.passes.pipeline import DEFAULT
from awqc.program import Program
from awqc.verify.layers import float_layers
from awqc.verify.reference import take_reference
from awqc.verify.steps import step_trials
from awqc.verify.trials import quantized_trials, take_trials
from tests.elsewhere import ELSEWHERE, Elsewhere
from tests.executor.test_together import quantized, sized
from tests.passes.test_on_a_device import kept_in_half
from tests.tiny import calibration, run
from tests.verify.test_steps import captured_decoder

assert_close = partial(torch.testing.assert_close, rtol=1e-5, atol=1e-5)


def test_it_runs_there_and_gives_tensors_of_the_cpu() -> None:
    program = quantized()
    batches = [sized(program, rows) for rows in (1, 7, 4)]
    with Elsewhere() as away, resident(program, ELSEWHERE) as there:
        assert there.device == ELSEWHERE
        weights = sum(each.numel() for each in program.parameters().values())
        assert sum(away.arrived) >= weights
        made = [*map(there.run, batches), *run_together(there, batches)]
    wanted = [*map(program.run, batches), *run_together(program, batches)]
    for found, expected in zip(made, wanted, strict=True):
        assert {type(each) for each in found} == {Tensor}
        assert_close(found, expected)
    assert program.device == CPU


def test_weights_kept_in_half_precision_are_brought_there_once() -> None:
    program = kept_in_half()
    wanted = program.run(program.example)
    with Elsewhere() as away, resident(program, ELSEWHERE) as there:
        arrived = len(away.arrived)
        assert_close(there.run(program.example), wanted)
        assert len(away.arrived) == arrived + len(program.inputs)
        kept = float_layers(there, program.example)
    for name, layer in float_layers(program, program.example).items():
        assert_close(kept[name].sample, layer.sample)


def test_what_verification_runs_is_the_same_there() -> None:
    program = captured_decoder()
    run(program, DEFAULT, calibration(program))
    held_out = [program.example]
    here = take_reference(program, held_out)
    trials = (*take_trials(program), *step_trials(program, "it"))
    assert trials
    with Elsewhere(), resident(program, ELSEWHERE) as there:
        reference = take_reference(there, held_out)
        again = (*take_trials(there), *step_trials(there, "it"))
        assert quantized_trials(there, again, 0.0)
    assert_close(reference.outputs, here.outputs)
    assert [trial.where for trial in again] == [trial.where for trial in trials]
    for one, other in zip(again, trials, strict=True):
        assert_close(one.outputs, other.outputs)


def test_what_is_told_there_is_told_of_the_program() -> None:
    program = quantized()
    with Elsewhere(), resident(program, ELSEWHERE) as there:
        there.tell("a note")
    assert program.notes[-1] == "a note"
    assert not list(there.graph_module.parameters())
    assert not list(there.graph_module.buffers())
    assert program.run(sized(program, 3))


def test_what_does_not_fit_stays_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    program = quantized()
    monkeypatch.setattr(place, "ROOM", 2**50)
    with resident(program, ELSEWHERE) as there:
        assert there is program
    with resident(replace(program), CPU) as there:
        assert isinstance(there, Program)
        assert there.device == CPU
