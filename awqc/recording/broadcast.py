"""Functions of numbers that a model maps over indices, as plain operations that a graph can hold.

::

    vmap(vmap(f, in_dims=(None, 0)), in_dims=(0, None))(rows, columns)
        ->  f(rows[:, None], columns)

``torch.vmap`` leaves operations in a graph that no runtime has. Where a function takes one number
of each index, broadcasting is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


@contextmanager
def broadcasting() -> Iterator[None]:
    """Let ``torch.vmap`` over the first axis of one argument broadcast.

    Tensors then index as tensors do: what torch does in place of it inside of ``vmap`` is left out.
    """
    # Imported here, since much comes with it.
    from torch._dynamo import _trace_wrapped_higher_order_op as inside

    original, mode = torch.vmap, inside.TransformGetItemToIndex
    indexing = mode.__torch_function__

    def vmap(func: Any, in_dims: Any = 0, out_dims: Any = 0, *rest: Any, **more: Any) -> Any:
        place = None if out_dims != 0 or rest or more else _mapped_place(in_dims)
        if place is None:
            return original(func, in_dims, out_dims, *rest, **more)
        return _Mapped(func, place)

    setattr(mode, "__torch_function__", _as_it_is)  # noqa: B010  a method of torch's
    torch.vmap = vmap
    try:
        yield
    finally:
        setattr(mode, "__torch_function__", indexing)  # noqa: B010  the same
        torch.vmap = original


def _mapped_place(in_dims: Any) -> int | None:
    """Of several arguments the only one whose first axis is mapped over."""
    if not isinstance(in_dims, tuple):
        return None
    mapped = [place for place, axis in enumerate(in_dims) if axis is not None]
    return mapped[0] if len(mapped) == 1 and in_dims[mapped[0]] == 0 else None


def _as_it_is(
    mode: Any, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
) -> Any:
    return func(*args, **(kwargs or {}))


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
