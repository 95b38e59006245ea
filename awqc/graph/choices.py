"""What a graph chooses by its values: the rows that a top-k takes, and their order.

Where scores are equal but for rounding either choice is right, and what is behind it is another.
So that is compared by making the same choice again, where it is as good:

::

    scores ─> topk ─> rows ─> …        reference: takes 7, 3, 9
    scores' ─> topk ─> rows' ─> …      compared:  takes 7, 3, 9, if they are the best of scores' too

Equal scores are taken in the order in which they stand, as ONNX does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph
from torch.utils._python_dispatch import TorchDispatchMode

Choices = tuple[Tensor, ...]
"""Of a run the indices that each top-k took, in the order of the calls."""
EQUAL = 1e-3
"""How far two scores may be apart, over the range of all, and be equal but for rounding."""
TOPK = torch.ops.aten.topk.default


def chooses(graph: Graph) -> bool:
    """Whether there is a choice in ``graph``."""
    return bool(graph.find_nodes(op="call_function", target=TOPK))


@dataclass
class MadeChoices:
    """What is to be chosen again, if that is known, and what was chosen.

    Attributes:
        again: choices to make, in order.
        tolerance: how much worse, over the range of the scores, one of them may be.
        made: what was chosen.
        scores: of each choice that was made again the scores that it took, the best, and twice as
            many of the best, as far as there are: what it could sensibly take.
    """

    again: deque[Tensor] = field(default_factory=deque)
    tolerance: float = 0.0
    made: list[Tensor] = field(default_factory=list)
    scores: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list)


_told: ContextVar[MadeChoices | None] = ContextVar("_told", default=None)


@contextmanager
def recorded_choices() -> Iterator[list[Tensor]]:
    """The indices that are chosen in the block."""
    told = MadeChoices()
    token = _told.set(told)
    try:
        yield told.made
    finally:
        _told.reset(token)


@contextmanager
def chosen_again(choices: Sequence[Tensor], tolerance: float) -> Iterator[MadeChoices]:
    """Let ``choices`` be made in the block, in order, where they are as good as the best.

    They are if each taken score is within ``tolerance``, over the range of the scores, of the one
    that would be taken in its place; else, and where there are no more, the best are taken.
    """
    told = MadeChoices(deque(choices), tolerance)
    token = _told.set(told)
    try:
        yield told
    finally:
        _told.reset(token)


def choosing(graph: Graph) -> AbstractContextManager[Any]:
    """What a run of ``graph`` stands in."""
    return _Choosing(_told.get() or MadeChoices()) if chooses(graph) else nullcontext()


class _Choosing(TorchDispatchMode):
    def __init__(self, told: MadeChoices) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch does not type it
        self._told = told

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is not TOPK:
            return func(*args, **(kwargs or {}))
        return self._choose(*args, **(kwargs or {}))

    def _choose(
        self, scores: Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True
    ) -> tuple[Tensor, Tensor]:
        best, order = torch.sort(scores, dim=dim, descending=largest, stable=True)
        values, indices = (each.narrow(dim, 0, k).contiguous() for each in (best, order))
        if self._told.again:
            again = self._told.again.popleft()
            if again.shape == indices.shape and int(again.max()) < scores.shape[dim]:
                taken = scores.gather(dim, again.to(scores.device))
                near = best.narrow(dim, 0, min(2 * k, scores.shape[dim]))
                self._told.scores.append((taken, values, near))
                if _as_good(taken, values, scores, self._told.tolerance):
                    values, indices = taken, again.to(scores.device).contiguous()
        self._told.made.append(indices)
        return values, indices


def _as_good(taken: Tensor, best: Tensor, scores: Tensor, tolerance: float) -> bool:
    """Whether ``taken`` are the ``best`` of ``scores``, within ``tolerance`` of their range."""
    finite = scores[scores.isfinite()].double()
    spread = float(finite.max() - finite.min()) if finite.numel() else 0.0
    same = (taken == best) | (taken.isnan() & best.isnan())
    worse = torch.where(same, 0.0, (taken.double() - best.double()).abs())
    return bool((worse <= tolerance * spread).all())
