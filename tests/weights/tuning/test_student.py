"""Tuning piece by piece: the gradients and distances of the whole model, in less memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from awqc.executor.segments import whole as whole_of
from awqc.findings import Lesson
from awqc.machine import products
from awqc.program import Batch, Program, Task
from awqc.weights.tuning import rows, student
from awqc.weights.tuning.dequantize import dequantize
from awqc.weights.tuning.graph import WeightFunction, quantized_calls
from awqc.weights.tuning.objective import distance
from awqc.weights.tuning.outline import outline
from awqc.weights.tuning.pieces import cut_up
from awqc.weights.tuning.scales import TunedScales
from awqc.weights.tuning.student import Student
from awqc.weights.tuning.teacher import take_teacher
from tests.tiny import GatedBlock, GroupedAttention, calibration, capture, captured, run

CODES = "quantize-weights{bits=3,group-size=16}"
VOCABULARY, WIDTH, TOKENS = 160, 32, 7


class Language(nn.Module):
    """Token numbers and a mask of padding in, logits out; the head may be the table."""

    def __init__(self, tied: bool = True) -> None:
        super().__init__()
        self.table = nn.Embedding(VOCABULARY, WIDTH)
        self.blocks = nn.Sequential(GroupedAttention(), GatedBlock(), GatedBlock())
        self.norm = nn.RMSNorm(WIDTH)
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        with torch.no_grad():
            self.table.weight.mul_(0.3)
            self.head.weight.mul_(2)
        if tied:
            self.head.weight = self.table.weight

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        x = self.table(ids) * (1 + mask.unsqueeze(-1))
        out: Tensor = self.head(self.norm(self.blocks(x)))
        return out


class Parted(nn.Module):
    """A list of values is made by one product and read behind the next."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.middle, self.last = nn.Linear(32, 64), nn.Linear(32, 32), nn.Linear(32, 48)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        low, high = self.wide(x).chunk(2, -1)
        h = torch.tanh(self.middle(torch.relu(low)))
        return self.last(h + high), h.mean(-1)


def tokens() -> list[tuple[Tensor, Tensor]]:
    """Two batches of numbers and masks, of which the second has padding."""
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(VOCABULARY, (2, 2, TOKENS), generator=generator)
    masks = torch.ones(2, 2, TOKENS, dtype=torch.int64)
    masks[1, 0, 4:] = 0
    return list(zip(ids, masks, strict=True))


@dataclass
class Made:
    """A quantized program, and the float one that it was."""

    program: Program
    floats: Program
    lessons: tuple[Lesson, ...]


def language(tied: bool = True) -> Made:
    torch.manual_seed(0)
    pairs = tokens()
    program = capture(Language(tied).eval(), *pairs[0])
    ids, mask = (spec.name for spec in program.inputs)
    program.task = Task(mask_input=mask, head_outputs=program.outputs)
    return made(program, [{ids: first, mask: second} for first, second in pairs])


def made(program: Program, batches: list[Batch]) -> Made:
    floats = run(program, "canonicalize").clone()
    teacher = take_teacher(program, batches)
    program.learn(teacher=teacher)
    run(program, CODES)
    return Made(program, floats, teacher.lessons)


def parted() -> Made:
    torch.manual_seed(0)
    program = capture(Parted().eval(), torch.randn(4, 5, 32))
    return made(program, calibration(program, 2))


def plain(name: str) -> Made:
    program = captured(name)
    return made(program, calibration(program, 2))


@cache
def model(name: str) -> Made:
    """One of `MODELS`, which nobody changes."""
    return MODELS[name]()


MODELS: dict[str, Callable[[], Made]] = {
    "tied": language,
    "untied": lambda: language(tied=False),
    "parted": parted,
    "prenorm": lambda: plain("prenorm"),
    "conv": lambda: plain("conv"),
}


def learner(found: Made) -> tuple[Student, TunedScales]:
    teacher = found.program.findings.teacher
    assert teacher is not None
    scales = TunedScales(found.program)
    return Student(found.program, teacher, scales), scales


def whole(found: Made, lesson: Lesson, scales: list[Tensor]) -> Tensor:
    """The distance by running both whole models; ``scales`` are changes, as in `TunedScales`."""
    program, batch = found.program, dict(lesson.batch)
    changes = iter(scales)
    weights = {}
    for name, weight in program.findings.quantized.items():
        if not weight.format.fine:
            roles = weight.format.tunable
            tuned = {role: weight.tensors[role] * (1 + next(changes)) for role in roles}
            weights[name] = dequantize(weight, tuned)
    assert next(changes, None) is None
    calls = quantized_calls(program)
    function = WeightFunction(program, {name: calls[name] for name in weights})
    return distance(program, batch, function(batch, weights), found.floats.run(batch))


@pytest.mark.parametrize("pieces", ["as cut", "one"])
@pytest.mark.parametrize("name", list(MODELS))
def test_gradients_are_those_of_the_whole_model(
    name: str, pieces: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slices of three rows, too, where there are logits."""
    monkeypatch.setattr(rows, "ELEMENTS", 3 * VOCABULARY)
    found = model(name)
    if pieces == "one":
        monkeypatch.setattr("awqc.weights.tuning.pieces.cut", lambda seen, smallest: whole_of(seen))
    learning, scales = learner(found)
    wanted = [torch.zeros_like(each, requires_grad=True) for each in scales.parameters()]
    learning.learn(found.lessons, 2)
    for lesson in found.lessons:
        (whole(found, lesson, wanted) / 2).backward()  # type: ignore[no-untyped-call]  # torch declares no types
    assert len(wanted) >= 2
    for now, then in zip(scales.parameters(), wanted, strict=True):
        assert now.grad is not None
        assert then.grad is not None
        assert then.grad.abs().max() > 0
        torch.testing.assert_close(now.grad, then.grad, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", list(MODELS))
def test_the_distance_is_that_of_the_whole_models(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "ELEMENTS", 3 * VOCABULARY)
    found = model(name)
    learning, scales = learner(found)
    zeros = [torch.zeros_like(each) for each in scales.parameters()]
    wanted = [float(whole(found, lesson, zeros)) for lesson in found.lessons]
    assert min(wanted) > 1e-4
    assert learning.distances(found.lessons) == pytest.approx(wanted, rel=1e-4)


@pytest.mark.usefixtures("quick_products")
def test_quick_gradients_point_where_whole_ones_do(monkeypatch: pytest.MonkeyPatch) -> None:
    found = model("untied")
    gradients = []
    for rounded in (True, False):
        if not rounded:
            monkeypatch.setattr(products, "has_quick_products", lambda: False)
        learning, scales = learner(found)
        learning.learn(found.lessons, 2)
        whole_gradient = [
            each.grad.flatten() for each in scales.parameters() if each.grad is not None
        ]
        gradients.append(torch.cat(whole_gradient))
    quick, exact = gradients
    assert torch.nn.functional.cosine_similarity(quick, exact, dim=0) > 0.999


def test_models_of_several_layers_are_cut() -> None:
    """And a value that is a list, or that gradients reach from two pieces, lives at a cut."""
    for name, least in (("tied", 3), ("parted", 3), ("prenorm", 2)):
        seen = outline(model(name).program)
        assert len(cut_up(seen, ())) >= least, name


def test_one_piece_of_weights_is_dequantized_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither forward nor backward do weights of two pieces live together, nor a whole table."""
    found = model("untied")
    learning, _ = learner(found)
    shapes: list[set[tuple[int, ...]]] = []
    original = Student._weights

    def noted(self: Student, piece: object, stored: bool) -> object:
        weights, tables = original(self, piece, stored)  # type: ignore[arg-type]  # as the method takes it
        shapes.append({tuple(weight.shape) for weight in weights})
        return weights, tables

    monkeypatch.setattr(student.Student, "_weights", noted)
    learning.learn(found.lessons, 1)
    count = len(cut_up(outline(found.program), ()))
    assert len(shapes) == 2 * count - 1, "the last piece runs once, whatever the lessons"
    assert sum((VOCABULARY, WIDTH) in each for each in shapes) == 1
