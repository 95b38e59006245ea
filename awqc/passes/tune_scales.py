"""The pass ``tune-scales``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from awqc.errors import UsageError
from awqc.executor.run import NO_DATA, Run
from awqc.findings import Fact, Facts, Lesson, Teacher, Tuning
from awqc.machine.devices import CPU, free_on, moved
from awqc.machine.progress import track
from awqc.machine.ranks import ALONE, Ranks
from awqc.machine.strict import fall_back
from awqc.numerics.formats.int_grid import FINE
from awqc.passes.base import Change, Pass
from awqc.program import Batch, Program
from awqc.weights.tuning.derivatives import why_no_derivative
from awqc.weights.tuning.scales import TunedScales
from awqc.weights.tuning.student import Student

WARM_UP = 4
LAST_RATE = 0.05
FEWEST = 7
JUDGES = 2
JUDGED = 6
"""One batch in so many is held back, up to `JUDGES`."""
TINY = 1e-30


@dataclass(frozen=True)
class TuneScales(Pass):
    """Tune the scales of all codes so that the outputs of the whole model come closer.

        before:  linear(x, dequantize(codes, scale, zero_point))
        after:   the same, with scales a few percent away

    Rounding treats each product alone; this follows the gradient of the distance between the
    model's outputs and the float model's, over calibration batches. What the format of a
    weight lets tune is tuned; codes stay, and so do scales of codes of `FINE` bits. Some batches
    are held back: where the tuned scales are no better on these, the old ones stay too. One piece
    of the model is in memory at a time, forward and backward.
    Options: ``share`` of the calibration batches that is used (but at least `FEWEST`), ``step``
    of them a step, ``rate``, the relative change of a scale in a step (Adam).
    Requires: quantize-weights{keep-float=true}, calibration data.
    Refuses: a model whose outputs do not get closer, or with an operation without a derivative.
    Source: EfficientQAT, arXiv 2407.11062, section 3.3 (end-to-end training of scales), with
    the float model's outputs as the target.
    """

    share: float = 1.0
    step: int = 1
    rate: float = 2e-3
    name: ClassVar[str] = "tune-scales"
    keeps_output: ClassVar[bool] = False
    needs: ClassVar[Facts] = frozenset({Fact.CODES, Fact.TEACHER})
    bars: ClassVar[Facts] = frozenset({Fact.HALF})
    ends: ClassVar[Facts] = frozenset({Fact.TEACHER})

    def apply(self, program: Program, run: Run = NO_DATA) -> list[Change]:
        """Tune, judge, and keep what is better; fills ``program.findings.tuning``."""
        teacher = program.findings.teacher
        program.learn(teacher=None)
        found = self._tune(program, run, teacher)
        program.learn(tuning=found)
        told = (
            ""
            if found.before is None
            else (f"distance {found.before:.4g} before, {found.after:.4g} after")
        )
        if found.kept:
            return [Change("scales", f"tuned: {told}")]
        reason = f"stay, {found.reason}" + (f": {told}" if told else "")
        return [Change("scales", reason, refused=True)]

    def chosen(self, batches: Sequence[Batch], ranks: Ranks = ALONE) -> Sequence[Batch]:
        """Those of this rank's calibration batches that are used."""
        wanted = max(FEWEST, round(self.share * ranks.count * len(batches)))
        return batches[: -(-wanted // ranks.count)]

    def _tune(self, program: Program, run: Run, teacher: Teacher | None) -> Tuning:
        if all(weight.format.fine for weight in program.findings.quantized.values()):
            return Tuning(False, reason=f"no weight has fewer than {FINE} bits")
        lessons = self._lessons(run, teacher)
        if not lessons or teacher is None:
            raise UsageError(
                "tune-scales needs quantize-weights{keep-float=true} before it, and calibration "
                "data: run it in the same compile"
            )
        scales = TunedScales(program, run.device)
        student = Student(program, teacher, scales, run.trim, run.device, run.bounds.lessons)
        needed = student.bytes_needed(lessons[0], self.step)
        free = free_on(run.device)
        if run.device == CPU:
            free = min(free, run.bounds.left())
        if any(run.ranks.gather(needed > free)):
            return Tuning(False, reason=_too_large(needed, free))
        held_back = min(JUDGES, max(1, len(lessons) // JUDGED), len(lessons) // 2)
        judging, training = lessons[:held_back] or lessons, lessons[held_back:]
        before = _judge(student, judging, run.ranks)
        try:
            self._train(student, scales.parameters(), training, run.ranks)
        except RuntimeError as error:
            reason = why_no_derivative(error)
            if reason is None:
                raise
            fall_back(program.tell, f"scales are not tuned: {reason}", error)
            return Tuning(False, before=before, after=before, reason=reason)
        after, count = _judge(student, judging, run.ranks), len(training) * run.ranks.count
        if not after < before:
            return Tuning(False, count, before, after, "tuning does not help")
        scales.store(program)
        return Tuning(True, count, before, after)

    def _lessons(self, run: Run, teacher: Teacher | None) -> Sequence[Lesson]:
        """What the teacher tells of the batches that are used; nothing, if it knows others.

        As many on each rank.
        """
        chosen = self.chosen(run.batches, run.ranks)
        chosen = chosen[: min(run.ranks.gather(len(chosen)))]
        lessons = teacher.lessons[: len(chosen)] if teacher else ()
        known = [lesson.batch for lesson in lessons]
        return lessons if list(map(id, known)) == list(map(id, chosen)) else ()

    def _train(
        self, student: Student, changes: list[Tensor], lessons: Sequence[Lesson], ranks: Ranks
    ) -> None:
        """Descend over all lessons once, ``step`` of them at a time, on each rank as many.

        Several ranks take fewer steps, and as much longer ones, each along their mean gradient.
        """
        steps = -(-len(lessons) // self.step)
        optimizer = torch.optim.Adam(changes, lr=self.rate * ranks.count, betas=(0.9, 0.95))

        def schedule(index: int) -> float:
            return min(1.0, (index + 1) / WARM_UP) * max(LAST_RATE, 1 - index / steps)

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
        for index in track(range(steps), "tune scales"):
            chosen = lessons[index * self.step : (index + 1) * self.step]
            student.learn(chosen, len(chosen) * ranks.count)
            _add_up(changes, ranks)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            scheduler.step()


def _add_up(changes: list[Tensor], ranks: Ranks) -> None:
    """Sum the gradients of all ranks."""
    if ranks.count > 1:
        for change in changes:
            own = torch.zeros_like(change) if change.grad is None else change.grad
            change.grad = moved(ranks.total(moved(own, CPU)), change.device)


def _judge(student: Student, lessons: Sequence[Lesson], ranks: Ranks) -> float:
    """Geometric mean of the distances: one batch with a large one does not decide."""
    own = [max(distance, TINY) for distance in student.distances(lessons)]
    found = [distance for each in ranks.gather(own) for distance in each]
    return math.exp(sum(map(math.log, found)) / len(found))


def _too_large(needed: int, free: int) -> str:
    return (
        f"gradients through the model need at least {needed / 1e6:.1f} MB, "
        f"{free / 1e6:.1f} MB are free"
    )
