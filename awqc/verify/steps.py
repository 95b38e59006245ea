"""A decoder token by token, with a cache that is not empty, beside all tokens at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from awqc.capture.agreement import tolerance
from awqc.errors import UsageError, VerificationError
from awqc.executor.together import run_together
from awqc.huggingface.tokens import token_batch
from awqc.program import Batch, Program
from awqc.verify.gap import Gap
from awqc.verify.trials import Trial

PREFILL, STEPS = 4, 2
"""Tokens that are read at once, and those that follow one by one."""
LENGTH = PREFILL + STEPS


@dataclass(frozen=True)
class _Text:
    """Tokens, a mask that is 0 on padding, and positions; each ``(batch, LENGTH)``."""

    ids: Tensor
    mask: Tensor
    positions: Tensor

    def part(self, program: Program, start: int, stop: int, past: Batch) -> Batch:
        """The inputs for tokens ``start`` to ``stop``, behind those in ``past``."""
        given = token_batch(program, self.ids[:, start:stop])
        here = self.positions[:, start:stop]
        told = {"attention_mask": self.mask[:, :stop], "position_ids": here}
        return {**given, **{n: told[n].to(v.dtype) for n, v in given.items() if n in told}, **past}


def step_trials(program: Program, what: str) -> tuple[Trial, ...]:
    """A prefill and steps with a real past, and what ``program`` gives for each.

    Padding is at the start of one row and at the end of another's prefill. Nothing is tried where
    ``program`` is no decoder with a cache, or takes more than tokens.

    Raises:
        VerificationError: its logits are others than for all tokens at once.
    """
    text = _text(program, [(0, 0), (-1, PREFILL - 1)])
    if text is None:
        return ()
    try:
        parts = [text.part(program, 0, stop, {}) for stop in (LENGTH, PREFILL)]
        whole, first = run_together(program, parts)
        trials = (Trial(f"{PREFILL} tokens", parts[1], first), *_in_steps(program, text, first))
    except UsageError:
        return ()
    place = program.outputs.index(program.head_outputs[0])
    gap = Gap()
    logits = torch.cat([trial.outputs[place] for trial in trials], 1)
    gap.add(logits, whole[place], text.mask.bool())
    if not gap.rel <= tolerance(program):
        raise VerificationError(
            f"{program.name}: {what} gives other {program.head_outputs[0]} for {PREFILL} tokens, "
            f"then {STEPS} more one by one with its cache, than for all of them at once (relative "
            f"difference {gap.rel:.2g}, rounding explains {tolerance(program):g}): the cache does "
            "not hold what was read. A text could not be continued; compile the model without a "
            "cache, or report it"
        )
    return trials


def left_padded(program: Program) -> tuple[Trial, ...]:
    """The same with padding at the start of one row alone; nothing of a program without a mask."""
    text = _text(program, [(0, 0)]) if program.mask_input is not None else None
    if text is None:
        return ()
    batch = text.part(program, 0, PREFILL, {})
    (first,) = run_together(program, [batch])
    return (Trial(f"{PREFILL} tokens", batch, first), *_in_steps(program, text, first))


def _text(program: Program, padding: Sequence[tuple[int, int]]) -> _Text | None:
    """Tokens of the example with ``padding`` at some rows and places; None where ``program`` is no
    decoder with a cache."""
    if not program.states or not program.head_outputs or "input_ids" not in program.example:
        return None
    ids = program.example["input_ids"]
    ids = ids[:, torch.arange(LENGTH) % ids.shape[1]]
    mask = torch.ones_like(ids)
    if program.mask_input is not None:
        for place in padding:
            mask[place] = 0
    return _Text(ids, mask, (mask.cumsum(1) - 1).clamp(min=0))


def _in_steps(program: Program, text: _Text, outputs: tuple[Tensor, ...]) -> Iterator[Trial]:
    """One token after another, behind the prefill that gave ``outputs``."""
    for start in range(PREFILL, LENGTH):
        named = dict(zip(program.outputs, outputs, strict=True))
        past = {name: named[output] for name, output in program.states}
        batch = text.part(program, start, start + 1, past)
        outputs = program.run(batch)
        yield Trial(f"one token behind {start}", batch, outputs)
