"""Held-out text in pieces, where the logits of all of it would be too large for memory.

A decoder with a cache reads a batch a few tokens at a time, each piece behind the states that the
one before it left: it gives what it gives for all tokens at once, and nothing as large.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor

from awqc.graph.nodes import results_of, shape_of
from awqc.kv_cache import PAST
from awqc.program import Batch, Program

MOST_LOGITS = 2**23
"""Elements of logits that are made at once, 34 MB in float32."""

Run = Callable[[Batch], tuple[Tensor, ...]]


@dataclass(frozen=True)
class TextPiece:
    """Some of the tokens of a batch.

    Attributes:
        batch: the inputs; without states where the piece ``continues`` the one before it.
        continues: whether it does.
    """

    batch: Batch
    continues: bool = False


def in_pieces(program: Program, batch: Batch) -> Iterator[TextPiece]:
    """``batch`` whole, or in equal pieces whose logits have `MOST_LOGITS` elements at most."""
    ids = batch.get("input_ids")
    length = 0 if ids is None else _length(program, batch, ids)
    if ids is None or length >= ids.shape[1]:
        yield TextPiece(batch)
        return
    length = math.ceil(ids.shape[1] / math.ceil(ids.shape[1] / length))
    states = {name for name, _ in program.states}
    for start in range(0, ids.shape[1], length):
        stop = min(start + length, ids.shape[1])
        given: Batch = {}
        for name, value in batch.items():
            if name in states:
                given |= {} if start else {name: value}
            else:  # a mask covers what was read before as well
                given[name] = value[:, 0 if name == program.mask_input else start : stop]
        yield TextPiece(given, start > 0)


def _length(program: Program, batch: Batch, ids: Tensor) -> int:
    """Tokens of a piece, at most; all, where the model cannot read on behind its own states."""
    states = {name for name, _ in program.states}
    free = all(
        any(isinstance(size, str) for size in spec.shape[1:])
        for spec in program.inputs
        if spec.name.startswith(PAST) or spec.name in ("input_ids", program.mask_input)
    )
    plain = all(v.shape[:2] == ids.shape for name, v in batch.items() if name not in states)
    if not states or not program.head_outputs or not free or not plain:
        return int(ids.shape[1])
    made = dict(zip(program.outputs, results_of(program.graph), strict=True))
    vocabulary = shape_of(made[program.head_outputs[0]])[-1]
    return max(1, MOST_LOGITS // (len(ids) * int(vocabulary)))


class PieceReader:
    """Runs pieces in order, each behind the states that the one before it left."""

    def __init__(self, program: Program, run: Run) -> None:
        """``program``: says which output comes back as which input; ``run``: runs a batch."""
        self._places = {name: program.outputs.index(output) for name, output in program.states}
        self._run = run
        self._left: Batch = {}

    def __call__(self, piece: TextPiece) -> tuple[Tensor, ...]:
        """What the model gives for ``piece``."""
        outputs = self._run({**piece.batch, **(self._left if piece.continues else {})})
        self._left = {name: outputs[place] for name, place in self._places.items()}
        return outputs
