"""Large quantized weights, of which a few rows at a time are dequantized.

A program calls a format's operation where it needs a weight, and gives what comes of it to a
product or a lookup. The weight of a large table or head need not be there whole for either.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from awqc.machine import in_rows
from awqc.machine.metadata import DTYPE, METADATA
from awqc.numerics.formats.base import bind_call

Operation = Callable[..., Tensor]
Eager = Callable[..., Tensor | None]
"""Gives the same bits as an operation sooner, or None where it cannot."""


def lazily(eager: Eager | None = None) -> Callable[[Operation], Operation]:
    """A format's operation that gives a `Dequantized` where the weight is large.

    It does so for tensors with values alone, and asks ``eager`` first for these; who traces sees
    the operation itself.
    """

    def wrapped(operation: Operation) -> Operation:
        def at_once(*args: Any) -> Tensor:
            made = None if eager is None else eager(*args)
            return operation(*args) if made is None else made

        where = list(inspect.signature(operation).parameters).index("shape")

        @wraps(operation)
        def call(*args: Any, **kwargs: Any) -> Tensor:
            given = bind_call(operation, args, kwargs) if kwargs else list(args)
            held, shape, *constants = given[:where], *given[where:]
            if not _plain(held):
                return operation(*given)
            made = Dequantized.of(at_once, held, shape, constants)
            return made if made.numel() >= in_rows.LARGE else made.whole()

        return call

    return wrapped


def _plain(held: Sequence[Any]) -> bool:
    """Whether nothing but values is asked of these tensors."""
    tensors = [each for each in held if each is not None]
    if any(type(each) not in (Tensor, nn.Parameter, nn.Buffer) for each in tensors):
        return False
    if torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack():
        return False
    return not any(in_rows.learns(each) or each.is_meta for each in tensors)


class Dequantized(Tensor):
    """The weight that codes stand for; what computes with it makes it, a few rows at a time."""

    _rows: Callable[[Any], Tensor]
    _matrix: torch.Size

    @staticmethod
    def of(
        operation: Operation,
        held: Sequence[Tensor | None],
        shape: Sequence[int],
        constants: Sequence[Any],
    ) -> Dequantized:
        """What ``operation(*held, shape, *constants)`` gives; rows of each of ``held`` are rows."""
        tensors = [each for each in held if each is not None]
        scale = next(each for each in tensors if each.is_floating_point())
        made: Dequantized = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]  # not declared
            Dequantized, tuple(shape), dtype=scale.dtype, device=scale.device
        )
        columns = prod(shape) // len(tensors[0])

        def rows(chosen: slice | Tensor) -> Tensor:
            some = [None if each is None else each[chosen] for each in held]
            count = next(len(each) for each in some if each is not None)
            return operation(*some, [count, columns], *constants)

        made._rows, made._matrix = rows, torch.Size((len(tensors[0]), columns))
        return made

    def whole(self) -> Tensor:
        """The weight as an ordinary tensor."""
        return in_rows.made_in_rows(self._matrix, self._some).reshape(self.shape)

    def _some(self, start: int, stop: int) -> Tensor:
        return self._rows(slice(start, stop))

    def _look_up(self, ids: Tensor) -> Tensor:
        wanted, places = ids.unique(return_inverse=True)
        return self._rows(wanted)[places]

    @classmethod
    def __torch_function__(
        cls,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """As in torch: ``func`` is called with an ordinary tensor in place of this one."""
        kwargs = dict(kwargs or {})
        with torch._C.DisableTorchFunctionSubclass():
            if func in METADATA or func == DTYPE:
                return func(*args, **kwargs)
            if func in in_rows.LOOKUPS:
                table, ids = in_rows.lookup_arguments(func, args, kwargs)
                return table._look_up(ids)
            if func in in_rows.LINEAR:
                x, weight, bias = in_rows.linear_arguments(args, kwargs)
                if isinstance(weight, Dequantized) and weight.ndim == 2 and not in_rows.learns(x):
                    return in_rows.linear_in_rows(x, weight.shape, weight._some, bias)
            return _on_whole(func, args, kwargs)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # torch declares none, and no class method
        cls,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """The same for callers that pass by Python."""
        return _on_whole(func, args, dict(kwargs or {}))


def _on_whole(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    args, kwargs = pytree.tree_map_only(Dequantized, Dequantized.whole, (args, kwargs))
    return func(*args, **kwargs)
