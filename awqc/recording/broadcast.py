"""Functions of numbers that a model maps over indices, as plain operations that a graph can hold.

::

    vmap(vmap(f, in_dims=(None, 0)), in_dims=(0, None))(rows, columns)
        ->  f(rows[:, None], columns)

``torch.vmap`` leaves operations in a graph that no runtime has. Where a function takes one number
of each index, broadcasting is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


@contextmanager
def broadcasting() -> Iterator[None]:
    """Let ``torch.vmap`` over the first axis of one argument broadcast."""
    original = torch.vmap

    def vmap(
        func: Any,
        in_dims: int | Sequence[int | None] = 0,
        out_dims: Any = 0,
        *rest: Any,
        **more: Any,
    ) -> Any:
        mapped = (
            [place for place, axis in enumerate(in_dims) if axis is not None]
            if isinstance(in_dims, list | tuple)
            else []
        )
        if len(mapped) != 1 or in_dims[mapped[0]] != 0 or out_dims != 0 or rest or more:  # type: ignore[index]  # of several
            return original(func, in_dims, out_dims, *rest, **more)
        return _Mapped(func, mapped[0])

    torch.vmap = vmap
    try:
        yield
    finally:
        torch.vmap = original


class _Mapped:
    """``func`` over the axis of the argument at ``place``, outside of what it is mapped over."""

    def __init__(self, func: Callable[..., Tensor], place: int) -> None:
        self._func, self._place = func, place
        self._inside: int = func._inside + 1 if isinstance(func, _Mapped) else 0

    def __call__(self, *given: Tensor) -> Tensor:
        values = list(given)
        count = values[self._place].shape[0]
        own = (count, *[1] * self._inside)
        values[self._place] = values[self._place].reshape(own)
        made = self._func(*values)
        return made.expand(torch.broadcast_shapes(made.shape, own))
