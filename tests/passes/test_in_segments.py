"""Passes on one segment after another give the same bits as on the whole."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from awqc.executor.run import Run
from awqc.executor.segments import Segment, cut, whole
from awqc.findings import Fact, FloatLayer
from awqc.numerics import statistics
from awqc.passes.base import Change
from awqc.passes.calibrate import Calibrate
from awqc.passes.in_segments import LEARNED, segment_passes
from awqc.passes.pipeline import parse_pipeline
from awqc.program import Batch, Program
from tests.executor.test_segments import Decoder, decoder
from tests.tiny import calibration, capture, captured_once

FINEST = partial(cut, smallest=1)
GPTQ = (
    "canonicalize,insert-observers{gram=true},calibrate,search-scales,fold-scales,"
    "quantize-weights{rounding=gptq,group-size=16}"
)
NEAREST = (
    "canonicalize,insert-observers,calibrate,search-scales{runtime-scales=always},fold-scales,"
    "quantize-weights{group-size=16}"
)


class Tied(nn.Module):
    """A decoder on tokens whose head is its table, which the first and the last segment read."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(256, 32)
        self.body = Decoder()
        self.body.head = nn.Linear(32, 32)
        self.head = nn.Linear(32, 256, bias=False)
        self.head.weight = self.table.weight

    def forward(self, ids: Tensor) -> Tensor:
        out: Tensor = self.head(self.body(self.table(ids)))
        return out


@captured_once
def tied() -> Program:
    torch.manual_seed(0)
    return capture(Tied().eval(), torch.randint(256, (2, 5)))


def data(program: Program) -> list[Batch]:
    (spec,) = program.inputs
    if spec.dtype.is_floating_point:
        return calibration(program)
    return [{spec.name: torch.randint(256, (2, 5))} for _ in range(3)]


def learned(
    make: Callable[[], Program], spec: str, pieces: Callable[[Program], list[Segment]]
) -> Program:
    program = make()
    torch.manual_seed(1)
    parse_pipeline(spec).run(program, data(program), cut=pieces)
    return program


@pytest.mark.parametrize("spec", [GPTQ, NEAREST], ids=["gptq", "nearest"])
@pytest.mark.parametrize("make", [decoder, tied])
def test_segments_give_the_same_bits_as_the_whole(make: Callable[[], Program], spec: str) -> None:
    plain, cut_up = learned(make, spec, whole), learned(make, spec, FINEST)
    one, other = plain.findings, cut_up.findings
    assert [(s.name, s.status) for s in one.sites] == [(s.name, s.status) for s in other.sites]
    folded = {site.name for site in one.sites if site.status in ("folded", "runtime")}
    assert folded
    for name in folded:
        assert torch.equal(one.scales[name].scale, other.scales[name].scale)
    assert one.quantized.keys() == other.quantized.keys()
    for name, weight in one.quantized.items():
        twin = other.quantized[name]
        assert weight.format == twin.format
        for role, tensor in weight.tensors.items():
            assert torch.equal(tensor, twin.tensors[role]), (name, role)
        assert one.errors[name] == other.errors[name]
    assert one.skipped == other.skipped
    (first,), (second,) = (each.run(each.example) for each in (plain, cut_up))
    assert torch.equal(first, second)


class Returning(nn.Module):
    """Returns its input and a constant, and another value under the name of a node."""

    def __init__(self) -> None:
        super().__init__()
        self.body = Decoder()
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        made = self.body(x)
        return {"given": x, "linear": made, "linear_5": made + 1, "scale": self.scale}


@captured_once
def returning() -> Program:
    torch.manual_seed(0)
    return capture(Returning().eval(), torch.randn(2, 5, 32))


def test_what_is_returned_is_what_the_whole_returns() -> None:
    nodes = {node.name for node in returning().graph.nodes}
    assert {"linear", "linear_5"} <= nodes & set(returning().outputs)
    one, other = learned(returning, GPTQ, whole), learned(returning, GPTQ, FINEST)
    assert one.outputs == other.outputs
    for first, second in zip(one.run(one.example), other.run(other.example), strict=True):
        assert torch.equal(first, second)


def test_what_was_learned_of_a_segment_is_forgotten() -> None:
    found = learned(decoder, GPTQ, FINEST).findings
    assert not found.statistics
    assert found.settled is None
    assert found.facts == learned(decoder, GPTQ, whole).findings.facts - LEARNED


def test_moments_of_one_segment_at_a_time_are_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever still refers to an observer, what it summed is gone with the segment."""
    made: list[list[weakref.ref[Tensor]]] = []
    held: list[int] = []
    finish = Calibrate.apply

    def watched(step: Calibrate, program: Program, run: Run) -> list[Change]:
        gc.collect()
        held.append(sum(ref() is not None for refs in made for ref in refs))
        changes = finish(step, program, run)
        found = program.findings.statistics.values()
        made.append([weakref.ref(each.gram) for each in found if each.gram is not None])
        return changes

    monkeypatch.setattr(statistics, "EXACT_COLUMNS", 0)  # as of wide activations
    monkeypatch.setattr(Calibrate, "apply", watched)
    learned(decoder, GPTQ, FINEST)
    assert len(made) >= 4
    assert all(made)
    assert held == [0] * len(made)


def test_layers_are_shown_before_codes_are_made() -> None:
    """Each segment once, float, with what the watched batch is there."""
    program = decoder()
    batches = calibration(program)
    wanted = program.run(batches[0])[0]
    seen: list[tuple[Program, Batch]] = []

    def take(part: Program, batch: Batch) -> dict[str, FloatLayer]:
        seen.append((part, batch))
        return {}

    parse_pipeline(GPTQ).run(
        program,
        batches,
        before_quantization=take,
        watched=batches[0],
        cut=FINEST,
    )
    assert len(seen) > 3
    names = [name for part, _ in seen for name in part.outputs]
    assert len(set(names)) == len(names)
    part, batch = seen[-1]
    assert not part.findings.quantized or part.findings.quantized.keys()
    torch.testing.assert_close(part.run(batch)[-1].shape, wanted.shape)


@pytest.mark.parametrize(
    ("spec", "count"),
    [
        ("calibrate,search-scales,fold-scales,quantize-weights", 4),
        ("calibrate,search-scales,fold-scales,quantize-weights,tune-scales", 4),
        ("calibrate,search-scales,fold-scales,allocate-bits{avg-bits=5},quantize-weights", 0),
        ("calibrate,search-scales,fold-scales", 0),
    ],
)
def test_only_passes_that_need_nothing_of_the_whole_go_by_segments(spec: str, count: int) -> None:
    facts = frozenset({Fact.OBSERVERS, Fact.SITES})
    keep = spec.replace("quantize-weights,", "quantize-weights{keep-float=true},")
    steps = parse_pipeline(keep, facts).passes
    assert len(segment_passes(steps)) == count


def test_rounding_that_follows_the_quantized_model_stays_whole() -> None:
    steps = parse_pipeline(GPTQ.replace("rounding=gptq", "rounding=gptq,sequential=true")).passes
    assert segment_passes(steps[2:]) == ()
