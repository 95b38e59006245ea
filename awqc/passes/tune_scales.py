"""The pass ``tune-scales``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from awqc.errors import UsageError
from awqc.executor.run import NO_DATA, Run
from awqc.findings import Fact, Facts, Tuning
from awqc.machine.memory import available
from awqc.machine.progress import track
from awqc.machine.strict import fall_back
from awqc.numerics.formats.int_grid import FINE
from awqc.passes.base import Change, Pass
from awqc.program import Batch, Program
from awqc.weights.stored import stored_weight
from awqc.weights.tuning.dequantize import dequantize
from awqc.weights.tuning.derivatives import why_no_derivative
from awqc.weights.tuning.graph import WeightFunction, quantized_calls
from awqc.weights.tuning.objective import distance

WARM_UP = 4
LAST_RATE = 0.05
LARGEST_CHANGE = 2.0
FEWEST = 7
JUDGES = 2
JUDGED = 6
"""One batch in so many is held back, up to `JUDGES`."""
TINY = 1e-30
WEIGHT_COPIES = 3
"""Dequantized weights, their gradients while they flow, and activations of about that size."""


@dataclass(frozen=True)
class TuneScales(Pass):
    """Tune the scales of all codes so that the outputs of the whole model come closer.

        before:  linear(x, dequantize(codes, scale, zero_point))
        after:   the same, with scales a few percent away

    Rounding treats each product alone; this follows the gradient of the distance between the
    model's outputs and the float model's, over calibration batches. What the format of a
    weight lets tune is tuned; codes stay, and so do scales of codes of `FINE` bits. Some batches
    are held back: where the tuned scales are no better on these, the old ones stay too.
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
    needs: ClassVar[Facts] = frozenset({Fact.CODES, Fact.FLOATS})
    bars: ClassVar[Facts] = frozenset({Fact.HALF})
    ends: ClassVar[Facts] = frozenset({Fact.FLOATS})

    def apply(self, program: Program, run: Run = NO_DATA) -> list[Change]:
        """Tune, judge, and keep what is better; fills ``program.findings.tuning``."""
        floats = program.findings.floats
        program.learn(floats={})
        found = self._tune(program, run.batches, floats)
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

    def _tune(
        self, program: Program, batches: Sequence[Batch], floats: Mapping[str, Tensor]
    ) -> Tuning:
        if all(weight.format.fine for weight in program.findings.quantized.values()):
            return Tuning(False, reason=f"no weight has fewer than {FINE} bits")
        if not floats or not batches:
            raise UsageError(
                "tune-scales needs quantize-weights{keep-float=true} before it, and calibration "
                "data: run it in the same compile"
            )
        batches = batches[: max(FEWEST, round(self.share * len(batches)))]
        needed = WEIGHT_COPIES * sum(weight.nbytes for weight in floats.values())
        if needed > (free := available()):
            return Tuning(False, reason=_too_large(needed, free))
        held_back = min(JUDGES, max(1, len(batches) // JUDGED), len(batches) // 2)
        training = batches[held_back:]
        tuner = _Tuner(program, floats)
        judging = [(batch, tuner.wanted(batch)) for batch in batches[:held_back] or batches]
        before = tuner.judge(judging)
        try:
            tuner.train(training, self.step, self.rate)
        except RuntimeError as error:
            reason = why_no_derivative(error)
            if reason is None:
                raise
            fall_back(program.tell, f"scales are not tuned: {reason}", error)
            return Tuning(False, before=before, after=before, reason=reason)
        after = tuner.judge(judging)
        if not after < before:
            return Tuning(False, len(training), before, after, "tuning does not help")
        tuner.store(program)
        return Tuning(True, len(training), before, after)


def _too_large(needed: int, free: int) -> str:
    return (
        f"gradients through the model need at least {needed / 1e9:.1f} GB, "
        f"{free / 1e9:.1f} GB are free"
    )


class _Tuner:
    """Relative changes of all scales, and what they do to the outputs."""

    def __init__(self, program: Program, floats: Mapping[str, Tensor]) -> None:
        self._program, self._floats = program, floats
        calls = quantized_calls(program)
        self._function = WeightFunction(program, {name: calls[name] for name in floats})
        self._weights = {name: program.findings.quantized[name] for name in floats}
        self._changes = {
            name: {
                role: torch.zeros_like(
                    weight.tensors[role], dtype=torch.float32, requires_grad=True
                )
                for role in weight.format.tunable
            }
            for name, weight in self._weights.items()
            if not weight.format.fine and name not in program.shared
        }

    def _tuned(self, name: str) -> dict[str, Tensor]:
        """The tuned tensors; rounded as they will be stored, where no gradient is asked for."""
        weight, changes = self._weights[name], self._changes.get(name, {})
        found = {}
        for role in weight.format.tunable:
            value = weight.tensors[role].float()
            if role in changes:
                change = (1 + changes[role]).clamp(1 / LARGEST_CHANGE, LARGEST_CHANGE)
                value = value * change
                if not torch.is_grad_enabled():
                    value = weight.format.stored(value, self._program.scale_dtype)
            found[role] = value
        return found

    @torch.no_grad()
    def wanted(self, batch: Batch) -> tuple[Tensor, ...]:
        """Outputs of the float model, carried states left out."""
        states = self._program.scaled_outputs()
        outputs = self._function(batch, self._floats)
        named = zip(self._program.outputs, outputs, strict=True)
        return tuple(torch.empty(0) if name in states else value for name, value in named)

    def _distance(self, batch: Batch, wanted: Sequence[Tensor]) -> Tensor:
        """Between the outputs of the quantized model and ``wanted``."""
        weights = {
            name: dequantize(weight, self._tuned(name)) for name, weight in self._weights.items()
        }
        return distance(self._program, batch, self._function(batch, weights), wanted)

    @torch.no_grad()
    def judge(self, batches: Sequence[tuple[Batch, Sequence[Tensor]]]) -> float:
        """Geometric mean of the distances: one batch with a large one does not decide."""
        found = [max(float(self._distance(*judged)), TINY) for judged in batches]
        return math.exp(sum(map(math.log, found)) / len(found))

    def train(self, batches: Sequence[Batch], step: int, rate: float) -> None:
        """Descend over all batches once, ``step`` of them at a time."""
        steps = -(-len(batches) // step)
        changes = [each for roles in self._changes.values() for each in roles.values()]
        optimizer = torch.optim.Adam(changes, lr=rate, betas=(0.9, 0.95))

        def schedule(index: int) -> float:
            return min(1.0, (index + 1) / WARM_UP) * max(LAST_RATE, 1 - index / steps)

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
        for index in track(range(steps), "tune scales"):
            chosen = batches[index * step : (index + 1) * step]
            for batch in chosen:
                loss = self._distance(batch, self.wanted(batch)) / len(chosen)
                if loss.requires_grad:
                    loss.backward()  # type: ignore[no-untyped-call]  # torch declares no types
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            scheduler.step()

    @torch.no_grad()
    def store(self, program: Program) -> None:
        """Put the tuned scales into ``program``."""
        calls = quantized_calls(program)
        quantized = dict(program.findings.quantized)
        for name in self._changes:
            weight, names = self._weights[name], stored_weight(calls[name]).tensors
            tuned = {
                role: value.to(weight.tensors[role].dtype)
                for role, value in self._tuned(name).items()
            }
            quantized[name] = weight.with_tensors(tuned)
            for role, value in tuned.items():
                program.set_weight(names[role], value)
        program.learn(quantized=quantized)
