"""A form that has no input for positions, and counts places in its cache: what it is held to.

On every batch it must give what the program gives for these places, its cache included. Behind
padding on the left, where the program's positions begin at the first token, its logits must be the
same too, with a cache of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from awqc.executor.together import run_together
from awqc.kv_cache import POSITIONS
from awqc.program import Batch, Program
from awqc.runtimes.base import LoadedModel
from awqc.runtimes.counted_places import places_of
from awqc.verify.choosing import ChoosingAs
from awqc.verify.gap import Gap
from awqc.verify.reference import in_dtypes
from awqc.verify.steps import left_padded
from awqc.verify.text_pieces import PieceReader, TextPiece
from awqc.verify.trials import SizeGap, Trial

Outputs = tuple[Tensor, ...]
BEHIND_PADDING = "padding before the first token"


def counts_places(program: Program, model: LoadedModel) -> bool:
    """Whether ``model`` has no input for the positions that ``program`` takes."""
    taken = (program.inputs, model.inputs)
    given, left = (any(spec.name == POSITIONS for spec in specs) for specs in taken)
    return given and not left


def as_counted(batch: Batch) -> Batch:
    """``batch`` with places as positions."""
    given = batch[POSITIONS]
    places = torch.from_numpy(places_of(batch)).to(given.dtype)
    return batch if torch.equal(places, given) else {**batch, POSITIONS: places}


def counted_trials(program: Program, trials: Sequence[Trial]) -> tuple[Trial, ...]:
    """``trials`` with places as positions, and what ``program`` gives for these."""
    batches = [as_counted(trial.batch) for trial in trials]
    changed = [n for n, trial in enumerate(trials) if batches[n] is not trial.batch]
    if not changed:
        return tuple(trials)
    made = run_together(program, [in_dtypes(program, batches[n]) for n in changed])
    outputs = dict(zip(changed, made, strict=True))
    return tuple(
        replace(trial, batch=batches[n], outputs=outputs.get(n, trial.outputs))
        for n, trial in enumerate(trials)
    )


def counted_pieces(
    program: Program, pieces: Sequence[TextPiece], outputs: Sequence[Outputs]
) -> tuple[tuple[TextPiece, ...], tuple[Outputs, ...]]:
    """``pieces`` with places as positions, and what ``program`` gives for these.

    ``outputs`` are what it gives for the pieces as they are.
    """
    counted, past = [], 0
    for piece in pieces:
        given = piece.batch[POSITIONS]
        places = torch.from_numpy(places_of(piece.batch)).to(given.dtype)
        places += past if piece.continues else 0
        past = int(places.max()) + 1
        counted.append(replace(piece, batch={**piece.batch, POSITIONS: places}))
    pairs = zip(pieces, counted, strict=True)
    if all(torch.equal(*(each.batch[POSITIONS] for each in pair)) for pair in pairs):
        return tuple(pieces), tuple(outputs)
    read = PieceReader(program, program.run)
    return tuple(counted), tuple(read(piece) for piece in counted)


def behind_padding(
    program: Program, run: Callable[[Batch], Outputs], again: ChoosingAs | None = None
) -> tuple[SizeGap, ...]:
    """How far logits of a form, which ``run`` runs with a cache of its own, are from the program's,
    which counts positions from the first token of a row that begins with padding.

    ``again`` is the program with the form's choices, where it chooses.
    """
    gaps, name = [], (program.head_outputs or ("",))[0]
    form: Batch = {}
    for trial in left_padded(program):
        taken = {**trial.batch, **form}
        outputs = run(taken)
        wanted = trial.outputs if again is None else again(trial.batch, taken)
        made = dict(zip(program.outputs, outputs, strict=True))
        form = {state: made[output] for state, output in program.states}
        gap, place = Gap(), program.outputs.index(name)
        seen = trial.batch[program.mask_input or ""][:, -outputs[place].shape[1] :].bool()
        gap.add(outputs[place], wanted[place], seen)
        rel = max(gap.rel - gap.rounding, 0.0)
        gaps.append(SizeGap(f"{BEHIND_PADDING}, {trial.where}", name, rel))
    return tuple(gaps)
