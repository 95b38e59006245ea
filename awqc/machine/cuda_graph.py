"""Many short kernels, asked for at once.

A kernel on a few thousand numbers takes a GPU less time than it takes to ask for it. CUDA can
record what a function asks for, and do it again with other values in the same places.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

Function = Callable[..., tuple[Tensor, ...]]


def recorded(function: Function, device: torch.device) -> Function:
    """``function``, which on CUDA is recorded once for each shape of what it is given.

    It takes trees of tensors on ``device``, may write to them, and must not look at a value: what
    it asks for follows from shapes alone. What it gives holds until the next call; what it
    wrote to its arguments is lost on CUDA. Elsewhere this is ``function`` itself.
    """
    return _Recorded(function) if device.type == "cuda" else function


class _Recorded:
    """Calls a function the first time, records it the second, and repeats it from then on."""

    def __init__(self, function: Function) -> None:
        self._function = function
        self._known: dict[Any, _Recording | None] = {}

    def __call__(self, *given: Any) -> tuple[Tensor, ...]:
        leaves, tree = pytree.tree_flatten(given)
        kind = (str(tree), tuple((leaf.shape, leaf.dtype) for leaf in leaves))
        if kind not in self._known:
            self._known[kind] = None  # The first call may allocate, and initialise libraries.
            return self._function(*given)
        recording = self._known[kind]
        if recording is None:
            recording = self._known[kind] = _Recording(self._function, leaves, tree)
        return recording.repeat(leaves)


class _Recording:
    """What a function asks for, and the places of what goes in and comes out."""

    def __init__(self, function: Function, given: list[Tensor], tree: pytree.TreeSpec) -> None:
        self._places = [leaf.clone() for leaf in given]
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(given[0].device):
            torch.cuda.synchronize()
            with torch.cuda.stream(torch.cuda.Stream()):
                self._graph.capture_begin()
                try:
                    self._made = function(*pytree.tree_unflatten(self._places, tree))
                finally:
                    self._graph.capture_end()

    def repeat(self, given: list[Tensor]) -> tuple[Tensor, ...]:
        """The same with the values of ``given``."""
        for place, value in zip(self._places, given, strict=True):
            place.copy_(value)
        self._graph.replay()
        return self._made
