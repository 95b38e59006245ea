"""Tensors that are kept in half precision, and read in float32 while something computes with them.

A checkpoint in bfloat16 stays in its file, mapped; no float32 copy of it is ever whole in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from awqc.machine.in_rows import (
    LARGE,
    LINEAR,
    LOOKUPS,
    learns,
    linear_arguments,
    linear_in_rows,
)
from awqc.machine.metadata import DTYPE, METADATA

WIDE = torch.float32
NARROW = (torch.bfloat16, torch.float16)
"""Dtypes of which float32 holds every value."""


class Narrow(nn.Parameter):
    """A parameter that is stored narrower than it is read.

    To whoever computes with it, it is a float32 tensor: each operation gets a float32 copy, which
    goes when the operation ends; a product with a large one, a few rows at a time. What only looks
    at some of it is a `Narrow` of the same memory. It says that its dtype is float32; its shape,
    its place in memory and its size in bytes are those of what is stored. It cannot be written to,
    so that copies of it are itself.

    >>> stored = Narrow.of(torch.ones(2, 3, dtype=torch.bfloat16))
    >>> stored.dtype, (stored @ torch.ones(3)).dtype
    (torch.float32, torch.float32)
    """

    _factors: tuple[Tensor, ...]

    @staticmethod
    def of(stored: Tensor, factors: tuple[Tensor, ...] = ()) -> Narrow:
        """``stored``, of one of the dtypes `NARROW`, as a float32 parameter.

        It is read times each of ``factors``, one after another; they broadcast to its shape.
        """
        assert stored.dtype in NARROW, stored.dtype
        made: Narrow = torch.Tensor._make_subclass(Narrow, stored.detach(), False)
        made._factors = tuple(factor.expand(stored.shape) for factor in factors)
        return made

    def stored(self) -> Tensor:
        """What is stored, in its own dtype, in the same memory."""
        with torch._C.DisableTorchFunctionSubclass():
            return self.detach().as_subclass(torch.Tensor)

    def times(self, factor: Tensor) -> Narrow:
        """This, to be read times ``factor``, which broadcasts to its shape."""
        return Narrow.of(self.stored(), (*self._factors, factor))

    def widened_on(self, device: torch.device) -> Tensor:
        """An ordinary float32 tensor on ``device``, with what this is read as; widened there."""
        factors = [_once(factor).to(device) for factor in self._factors]
        return _multiplied(self.stored().to(device).to(WIDE), factors)

    @classmethod
    def __torch_function__(
        cls,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """As in torch: ``func`` is called with float32 in place of what is stored."""
        kwargs = dict(kwargs or {})
        with torch._C.DisableTorchFunctionSubclass():
            if func in METADATA:
                return func(*args, **kwargs)
            if func == DTYPE:
                return WIDE
            if func in _VIEWS and isinstance(args[0], Narrow):
                return _viewed(func, args[0], args[1:], kwargs)
            if func in LOOKUPS:
                return _looked_up(func, args, kwargs)
            if func in LINEAR and (made := _product(*linear_arguments(args, kwargs))) is not None:
                return made
            _refuse_writing(func, args)
            args, kwargs = pytree.tree_map_only(Narrow, widened, (args, kwargs))
            return func(*args, **kwargs)

    def __deepcopy__(self, memo: object) -> Narrow:
        return self

    def __reduce_ex__(self, protocol: Any) -> Any:
        return nn.Parameter(widened(self), requires_grad=False).__reduce_ex__(protocol)


def scaled(weight: Tensor, factor: Tensor) -> Tensor:
    """``weight`` times ``factor``, computed in float32, in its dtype; later, if it is `Narrow`."""
    if isinstance(weight, Narrow):
        return weight.times(factor)
    return (weight.float() * factor).to(weight.dtype)


def widened(value: Tensor) -> Tensor:
    """An ordinary tensor with what ``value`` is read as; itself, if it is not `Narrow`."""
    if not isinstance(value, Narrow):
        return value
    return _multiplied(value.stored().to(WIDE), value._factors)


def _once(factor: Tensor) -> Tensor:
    """``factor`` with one entry along each axis that it was broadcast along."""
    return factor[tuple(slice(1 if step == 0 else None) for step in factor.stride())]


def _multiplied(fresh: Tensor, factors: Sequence[Tensor]) -> Tensor:
    for factor in factors:
        fresh = fresh.mul_(factor)
    return fresh


def _viewed(func: Any, value: Narrow, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What ``func`` sees of ``value``, still narrow where its factors can be seen so as well."""
    made = func(value.stored(), *args, **kwargs)
    try:
        seen = [_seen(func, factor, args, kwargs) for factor in value._factors]
    except RuntimeError:
        return func(widened(value), *args, **kwargs)
    if isinstance(made, Tensor):
        return Narrow.of(made, tuple(seen))
    return tuple(Narrow.of(part, tuple(each)) for part, *each in zip(made, *seen, strict=True))


def _seen(func: Any, factor: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """As ``func``, without ever making a factor as large as what it broadcasts to.

    Raises:
        RuntimeError: that would be necessary.
    """
    return (Tensor.view if func is Tensor.reshape else func)(factor, *args, **kwargs)


def _looked_up(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Rows of a table, of which these alone are widened."""

    def call(choose: Callable[[Narrow], Tensor]) -> Tensor:
        chosen, named = pytree.tree_map_only(Narrow, choose, (args, kwargs))
        made: Tensor = func(*chosen, **named)
        return made

    table = next(each for each in (*args, *kwargs.values()) if isinstance(each, Narrow))
    factors = [call(lambda _, factor=factor: factor) for factor in table._factors]  # type: ignore[misc]  # a default binds factor
    return _multiplied(call(Narrow.stored).to(WIDE), factors)


def _product(x: Any, weight: Any, bias: Any) -> Tensor | None:
    """``x W^T + bias`` with a large ``weight``, a few rows of it at a time; None if it is not."""
    if isinstance(x, Narrow) or not isinstance(weight, Narrow) or weight.numel() < LARGE:
        return None
    if weight.ndim != 2 or learns(x):
        return None
    wide = widened(bias) if isinstance(bias, Narrow) else bias

    def rows(start: int, stop: int) -> Tensor:
        return widened(_viewed(Tensor.__getitem__, weight, (slice(start, stop),), {}))

    return linear_in_rows(x, weight.shape, rows, wide)


def _refuse_writing(func: Any, args: tuple[Any, ...]) -> None:
    name = getattr(func, "__name__", "")
    writes = name == "__setitem__" or (name.endswith("_") and not name.endswith("__"))
    if writes and args and isinstance(args[0], Narrow):
        raise RuntimeError(f"{name}: a tensor that is kept in half precision cannot be written to")


_VIEWS = {
    Tensor.detach,
    Tensor.data.__get__,  # type: ignore[attr-defined]  # a descriptor, which mypy takes for its value
    Tensor.__getitem__,
    Tensor.reshape,
    Tensor.view,
    Tensor.split,
}
"""What gives the same elements, or some of them."""
