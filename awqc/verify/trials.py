"""The original, the quantized and each exported form at other sizes than the example's.

Held-out batches have few sizes, mostly the example's; a constant that follows from a size shows at
others alone. Few batches are tried, each small.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from torch import Tensor

from awqc.errors import VerificationError, spelled
from awqc.executor.together import run_together
from awqc.graph.choices import Choices, chosen_again, recorded_choices
from awqc.machine.strict import fall_back
from awqc.probes.axes import Sizes, free_axes
from awqc.probes.resized import padded_batches, resized_batch
from awqc.probes.sizes import Attempt, attempts, breaking
from awqc.program import Batch, Program
from awqc.verify.gap import Gap
from awqc.verify.measuring import by_tokens
from awqc.verify.reference import in_dtypes, waiting_outputs

Outputs = tuple[Tensor, ...]
MOST_LOSS = 0.5
"""Loss at other sizes up to which nothing is said, relative; it may be `MOST_GROWTH` times that
on held-out batches as well."""
MOST_GROWTH = 4


@dataclass(frozen=True)
class Trial:
    """A batch of other sizes, or with another mask, and what a model gives for it.

    Attributes:
        where: the sizes, in words.
        batch: the inputs.
        outputs: what the model gives.
        promised: whether capture took such sizes for possible.
        choices: what the model chose, see `awqc.graph.choices`.
    """

    where: str
    batch: Batch
    outputs: Outputs
    promised: bool = True
    choices: Choices = ()


@dataclass(frozen=True)
class SizeGap:
    """How far a form is from the quantized program at other sizes; an entry of ``sizes``.

    Attributes:
        where: the sizes, in words.
        output: the name of the output that is furthest off.
        rel: how far, relative to the output's variation, beyond what rounding explains.
    """

    where: str
    output: str
    rel: float


def take_trials(program: Program) -> tuple[Trial, ...]:
    """Batches on which ``program`` runs, and what it gives: at other sizes, with other masks."""
    waiting = waiting_outputs()
    every = chain(_sized(program), _padded(program))
    return tuple(replace(trial, outputs=waiting.keep(trial.outputs)) for trial in every)


def _sized(program: Program) -> Iterator[Trial]:
    if (axes := free_axes(program)) is None:
        return
    ran: list[Sizes] = []

    def run(ways: Sequence[Attempt]) -> Iterator[Trial]:
        for way in ways:
            batch = resized_batch(program, axes, way.sizes)
            made = None if batch is None else _chosen(program, batch)
            if batch is not None and made is not None:
                ran.append(way.sizes)
                promised = not axes.broken(way.sizes)
                yield Trial(axes.describe(way.sizes), batch, made[0], promised, made[1])
                return

    for ways in attempts(axes):
        yield from run(ways)
    for attempt in breaking(axes, ran):
        if not attempt.beyond:
            yield from run([attempt])


def _padded(program: Program) -> Iterator[Trial]:
    for side, name, batch in padded_batches(program):
        if (made := _chosen(program, batch)) is not None:
            where = f"another flag {side} of {name}"
            yield Trial(where, batch, made[0], choices=made[1])


def _chosen(program: Program, batch: Batch) -> tuple[Outputs, Choices] | None:
    """Outputs, and what was chosen; None where it fails."""
    with recorded_choices() as choices:
        outputs = _run(program, batch)
    return None if outputs is None else (outputs, tuple(choices))


def _run(program: Program, batch: Batch) -> Outputs | None:
    try:
        return program.run(in_dtypes(program, batch))
    except Exception:  # noqa: BLE001 - sizes that were not asked for may be refused
        return None


def quantized_trials(program: Program, trials: Sequence[Trial], loss: float) -> tuple[Trial, ...]:
    """What the quantized ``program`` gives on the batches of ``trials``.

    Args:
        program: quantized.
        trials: what the original gives.
        loss: the relative loss on held-out batches.

    Raises:
        VerificationError: it fails, or is further from the original than quantization explains.
    """
    found = []
    limit = max(MOST_LOSS, MOST_GROWTH * loss)
    waiting = waiting_outputs()
    for trial, outputs in zip(trials, _outputs(program, trials), strict=True):
        what = f"{program.name}: the quantized model with {trial.where}"
        if outputs is None and not trial.promised:
            program.tell(f"{what} fails: capture took it that no such sizes come")
            continue
        if outputs is None:
            raise VerificationError(f"{what} fails, and the original does not; please report it")
        near = replace(trial, outputs=waiting.keep(outputs))
        if not program.states:  # a fold may scale them: the example's would mean something else
            # In the norm: of an output with one row or two the variation is small by chance.
            compared = near
            if trial.choices:
                with chosen_again(trial.choices, math.inf):
                    compared = replace(near, outputs=_run(program, trial.batch) or near.outputs)
            worst = _furthest(program, compared, trial.outputs, lambda gap: gap.norm_rel)
            if worst is not None and not worst.rel <= limit:
                raise VerificationError(
                    f"{what} differs from the original by {worst.rel:.2g} (relative) in "
                    f"{worst.output}, where {loss:.2g} is lost on the held-out batches; "
                    "please report it"
                )
        found.append(near)
    return tuple(found)


def _outputs(program: Program, trials: Sequence[Trial]) -> Sequence[Outputs | None]:
    """What ``program`` gives on each, all at once; one by one where it fails on any."""
    try:
        return run_together(program, [in_dtypes(program, trial.batch) for trial in trials])
    except Exception as error:  # noqa: BLE001 - told by the caller, with the sizes
        alone = [_run(program, trial.batch) for trial in trials]
        if None not in alone:
            fall_back(program.tell, "other sizes were tried one after another", error)
        return alone


def try_form(
    program: Program, run: Callable[[Batch], Outputs], what: str, trials: Sequence[Trial]
) -> tuple[SizeGap, ...]:
    """How far a form, which ``run`` runs, is from the quantized program on ``trials``.

    Raises:
        VerificationError: it fails on one, or gives outputs of another shape.
    """
    gaps = []
    for trial in trials:
        try:
            outputs = run(trial.batch)
            gap = _furthest(program, trial, outputs, lambda gap: max(gap.rel - gap.rounding, 0.0))
        except VerificationError as error:
            raise VerificationError(
                f"{program.name}: with {trial.where} {what} fails, and the quantized model does "
                f"not: {error.text}. {_advice()}"
            ) from error
        gaps += [] if gap is None else [gap]
    return tuple(gaps)


def check_sizes(name: str, what: str, gaps: Sequence[SizeGap], limit: float) -> None:
    """Refuse a form that is wrong at other sizes.

    Raises:
        VerificationError: one of ``gaps`` is beyond ``limit``.
    """
    for gap in gaps:
        if not gap.rel <= limit:
            raise VerificationError(
                f"{name}: with {gap.where} {what} differs from the quantized model by "
                f"{gap.rel:.2g} (relative, computed exactly) in the output {gap.output!r}; "
                f"rounding explains {limit:g}. A constant in it follows from the example's sizes. "
                f"{_advice()}"
            )


def _advice() -> str:
    return f"Leave that axis out of {spelled('dynamic')}, or write other {spelled('formats')}"


def _furthest(
    program: Program, wanted: Trial, outputs: Sequence[Tensor], measure: Callable[[Gap], float]
) -> SizeGap | None:
    """The output of ``outputs`` that is furthest off by ``measure``; None where none is floating.

    Raises:
        VerificationError: an output has another shape.
    """
    gaps = []
    for name, now, reference in zip(program.outputs, outputs, wanted.outputs, strict=True):
        if now.shape != reference.shape:
            raise VerificationError(
                f"the output {name!r} has shape {tuple(now.shape)}, not {tuple(reference.shape)}"
            )
        if reference.is_floating_point():
            gap = Gap()
            gap.add(*by_tokens(program, wanted.batch, name, now, reference))
            gaps.append(SizeGap(wanted.where, name, measure(gap)))
    return max(gaps, key=lambda gap: gap.rel, default=None)
