"""The quantized model as it learns: a piece at a time is in memory, forward and backward.

forward     each piece without a gradient; what lives between pieces is kept
head        the last piece, with gradients, in slices of rows where it can be
backward    from the last piece to the first: forward again, with gradients, and back

All that is learned from in one step goes through a piece at once, so that its weights are
dequantized once a step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.utils import _pytree as pytree

from awqc.findings import Lesson, Teacher
from awqc.machine.devices import CPU, moved, place
from awqc.machine.products import quick_products
from awqc.machine.spool import Spool
from awqc.program import Program
from awqc.weights.tuning.dequantize import TunedWeight
from awqc.weights.tuning.objective import distance
from awqc.weights.tuning.outline import outline
from awqc.weights.tuning.pieces import Piece, Values, cut_up, inputs_of
from awqc.weights.tuning.rows import ELEMENTS, Rows, sum_divergence
from awqc.weights.tuning.scales import TunedScales
from awqc.weights.tuning.teacher import ACTIVATIONS, BOUND

WEIGHT_COPIES = 3
"""Dequantized weights of a piece, their gradients, and activations of about that size."""
OFTEN = 8
"""Pieces after which memory is given back."""
LOGIT_COPIES = 5
"""A slice of the student's logits and of the teacher's, their gradient, and what it is made of."""

Gradients = dict[Node, dict[int, Tensor]]
"""Of values that live between pieces, by the place of a tensor in the value."""
Weights = tuple[list[Tensor], list[TunedWeight]]
"""Of a piece: its matrices and its tables."""


class Student:
    """Runs the quantized ``program`` with the tuned ``scales`` against ``teacher``.

    ``trim`` is called now and then, to give back memory that is free. Pieces run on ``device``;
    what lives between them comes back, of which ``bound`` bytes stay in memory.
    """

    def __init__(
        self,
        program: Program,
        teacher: Teacher,
        scales: TunedScales,
        trim: Callable[[], None] = lambda: None,
        device: torch.device = CPU,
        bound: int = BOUND,
    ) -> None:
        self._teacher, self._scales, self._trim = teacher, scales, trim
        self._device, self._bound = device, bound
        self._seen = outline(program)
        *self._first, self._head = cut_up(self._seen, program.findings.quantized)
        self._taught_weights = moved(tuple(w.detach() for w in teacher.weights), device)
        for module in (*(piece.module for piece in (*self._first, self._head)), teacher.head):
            place(module, device)
        self._moving = _moving(self._seen, set(scales.names))
        self._rows = Rows.of(self._seen, self._head.module.graph, len(self._head.reads))
        reads = len(teacher.head.graph.find_nodes(op="placeholder")) - len(teacher.weights)
        self._taught_rows = Rows.of(self._seen, teacher.head.graph, reads)

    def bytes_needed(self, lesson: Lesson, count: int = 1) -> int:
        """Memory for a step of ``count`` lessons such as ``lesson``, at least.

        The largest piece, and what lives between all of them.
        """
        pieces = [WEIGHT_COPIES * self._weight_bytes(piece) for piece in self._first]
        if self._rows is None or self._taught_rows is None:
            pieces.append(WEIGHT_COPIES * self._weight_bytes(self._head))
        else:
            pieces.append(2 * self._weight_bytes(self._head) + LOGIT_COPIES * 4 * ELEMENTS)
        tensors = [each for each in pytree.tree_leaves(lesson.values) if isinstance(each, Tensor)]
        stream = sum(tensor.nbytes for tensor in tensors)
        return max(pieces) + min(self._bound, count * len(self._first) * stream)

    def _weight_bytes(self, piece: Piece) -> int:
        """Bytes of the weights that ``piece`` takes, in float32."""
        return sum(4 * prod(self._scales.shape(name)) for name in piece.matrices)

    @torch.no_grad()
    @quick_products()
    def distances(self, lessons: Sequence[Lesson]) -> list[float]:
        """From the teacher's outputs, with scales as they would be stored."""
        lives = self._forward(lessons, stored=True)
        weights = self._weights(self._head, stored=True)
        read = [
            {node: moved(live[node], self._device) for node in self._head.reads} for live in lives
        ]
        return [
            self._at_head(lesson, values, weights, share=0)
            for lesson, values in zip(lessons, read, strict=True)
        ]

    @torch.no_grad()
    @quick_products()
    def learn(self, lessons: Sequence[Lesson], share: int) -> None:
        """Add the gradient of the distances, divided by ``share``, to those of the changes.

        All ``lessons`` go through a piece while its weights are there.
        """
        lives = self._forward(lessons, stored=False)
        gradients = [Gradients() for _ in lessons]
        with self._weights_that_learn(self._head) as weights:
            for lesson, live, found in zip(lessons, lives, gradients, strict=True):
                values = self._opened(self._head, live)
                with torch.enable_grad():
                    self._at_head(lesson, values, weights, share)
                self._collect(values, found)
        for piece in self._trimming(reversed(self._first)):
            reached = [not found.keys().isdisjoint(piece.makes) for found in gradients]
            if any(reached):
                with self._weights_that_learn(piece) as weights:
                    for live, found in zip(lives, gradients, strict=True):
                        self._backward(piece, weights, live, found)
            for live, found in zip(lives, gradients, strict=True):
                for node in piece.makes:
                    live.pop(node)
                    found.pop(node, None)

    def _forward(self, lessons: Sequence[Lesson], stored: bool) -> list[Values]:
        """What lives between the pieces, for each of ``lessons``."""
        spool = Spool(ACTIVATIONS, self._bound)
        lives = [inputs_of(self._seen, lesson.batch) for lesson in lessons]
        for piece in self._trimming(self._first):
            weights = self._weights(piece, stored)
            for live in lives:
                values = {node: moved(live[node], self._device) for node in piece.reads}
                made = piece(values, *weights)
                live |= {node: spool.keep(moved(value, CPU)) for node, value in made.items()}
        return lives

    def _trimming(self, pieces: Iterable[Piece]) -> Iterator[Piece]:
        for count, piece in enumerate(pieces):
            if count % OFTEN == 0:
                self._trim()
            yield piece
        self._trim()

    def _weights(self, piece: Piece, stored: bool) -> Weights:
        weights = [self._scales.weight(name, stored) for name in piece.matrices]
        tables = [self._scales.weight(name, stored) for name in piece.tables]
        return [weight.whole() for weight in weights], tables

    @contextmanager
    def _weights_that_learn(self, piece: Piece) -> Iterator[Weights]:
        """The weights of ``piece``; what gradients arrive at matrices goes on to the changes."""
        with torch.enable_grad():
            matrices, tables = self._weights(piece, stored=False)
        leaves = [each.detach().requires_grad_(each.requires_grad) for each in matrices]
        yield leaves, tables
        for whole, leaf in zip(matrices, leaves, strict=True):
            if leaf.grad is not None:
                whole.backward(leaf.grad)  # type: ignore[no-untyped-call]  # torch declares no types

    def _at_head(self, lesson: Lesson, values: Values, weights: Weights, share: int) -> float:
        """The distance; with ``share``, its gradient flows to ``values`` and to ``weights``."""
        taught = list(moved(lesson.values, self._device))
        if self._rows is None or self._taught_rows is None:
            made = self._head(values, *weights)
            outputs = [made[node] for node in self._head.makes]
            wanted = self._taught(taught, self._taught_weights)
            return _descend(distance(self._seen, lesson.batch, outputs, wanted), share)
        total = 0.0
        read = [values[node] for node in self._head.reads]
        for part, rows in self._rows.slices(lesson.batch, read):
            then = self._taught(self._taught_rows.pick(taught, part), self._taught_weights)
            picked = dict(zip(self._head.reads, self._rows.pick(read, part), strict=True))
            made = self._head(picked, *weights)
            now = [made[node] for node in self._head.makes]
            total += _descend(sum_divergence(now, then) / rows, share)
        return total

    @torch.no_grad()
    def _taught(self, values: list[Any], weights: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The teacher's outputs, of what its head reads."""
        return tuple(self._teacher.head(*values, *weights))

    def _opened(self, piece: Piece, live: Values) -> Values:
        """What ``piece`` reads; gradients arrive where something tuned went into it."""
        there = {node: moved(live[node], self._device) for node in piece.reads}
        return {
            node: pytree.tree_map(_leaf, value) if node in self._moving else value
            for node, value in there.items()
        }

    def _backward(self, piece: Piece, weights: Weights, live: Values, gradients: Gradients) -> None:
        """Bring the gradients of what ``piece`` makes to what it reads, and to ``weights``."""
        values = self._opened(piece, live)
        with torch.enable_grad():
            made = piece(values, *weights)
        ends, upstream = [], []
        for node, value in made.items():
            for index, leaf in enumerate(pytree.tree_leaves(value)):
                if index in gradients.get(node, {}) and leaf.requires_grad:
                    ends.append(leaf)
                    upstream.append(gradients[node][index])
        if ends:
            torch.autograd.backward(ends, upstream)
        self._collect(values, gradients)

    def _collect(self, values: Values, gradients: Gradients) -> None:
        """Add what arrived at ``values`` to ``gradients``."""
        for node, value in values.items():
            for index, leaf in enumerate(pytree.tree_leaves(value)):
                if isinstance(leaf, Tensor) and leaf.grad is not None:
                    found = gradients.setdefault(node, {})
                    found[index] = found[index] + leaf.grad if index in found else leaf.grad


def _descend(loss: Tensor, share: int) -> float:
    if share and loss.requires_grad:
        (loss / share).backward()  # type: ignore[no-untyped-call]  # torch declares no types
    return float(loss.detach())


def _leaf(value: Any) -> Any:
    """``value`` as the end of a gradient, if it can be."""
    floats = isinstance(value, Tensor) and value.is_floating_point()
    return value.detach().requires_grad_() if floats else value


def _moving(seen: Program, tuned: set[str]) -> set[Node]:
    """The nodes whose values depend on a weight that is tuned."""
    found: set[Node] = set()
    for node in seen.graph.nodes:
        own = node.op == "get_attr" and str(node.target) in tuned
        if own or not found.isdisjoint(node.all_input_nodes):
            found.add(node)
    return found
