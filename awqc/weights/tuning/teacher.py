"""What the float model gives, recorded while its weights are still there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from awqc.findings import Lesson, Teacher
from awqc.graph.linears import find_linears
from awqc.machine.devices import CPU, moved, placed
from awqc.machine.products import quick_products
from awqc.machine.spool import Spool
from awqc.program import Batch, Program
from awqc.weights.tuning.outline import outline
from awqc.weights.tuning.pieces import Piece, cut_up, inputs_of

ACTIVATIONS = "activations"
BOUND = 2**27
"""Bytes of them that stay in memory; others go to a file."""


def take_teacher(
    program: Program, batches: Sequence[Batch], device: torch.device = CPU, bound: int = BOUND
) -> Teacher:
    """What the float ``program``, which stays as it is, gives for ``batches``.

    One forward pass each, up to the last place where the program is cut. The weights of what is
    behind it are referred to, not copied. Any program with the same outputs will do, before
    folding or after it. One piece at a time is on ``device``. ``bound``: bytes of what is recorded
    that stay in memory.
    """
    seen = outline(program)
    held = program.parameters()
    weights = {linear.weight_name: held[linear.weight_name] for linear in find_linears(seen.graph)}
    head = cut_up(seen, weights)[-1]
    if head.tables:  # of a program in one piece: what is looked up in stays in the piece
        weights = {name: each for name, each in weights.items() if name not in head.tables}
        head = cut_up(seen, weights)[-1]
    *first, _ = cut_up(seen, ())
    spool = Spool(ACTIVATIONS, bound)
    lessons = tuple(
        Lesson(batch, _record(seen, first, head, batch, spool, device)) for batch in batches
    )
    return Teacher(head.module, tuple(weights[name] for name in head.matrices), lessons)


@torch.no_grad()
@quick_products()
def _record(
    seen: Program,
    first: Sequence[Piece],
    head: Piece,
    batch: Batch,
    spool: Spool,
    device: torch.device,
) -> tuple[Any, ...]:
    """What ``head`` reads where ``batch`` comes in, of what ``first`` make of it."""
    values = moved(inputs_of(seen, batch), device)
    later = [set(head.reads).union(*(p.reads for p in first[n:])) for n in range(1, len(first) + 1)]
    for piece, needed in zip(first, later, strict=True):
        values |= replace(piece, module=placed(piece.module, device))(values)
        values = {node: value for node, value in values.items() if node in needed}
    values = moved(values, CPU)
    return tuple(
        values[node] if node.op == "placeholder" else spool.keep(values[node])
        for node in head.reads
    )
