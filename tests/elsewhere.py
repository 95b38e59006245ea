"""A device that is none of this machine's: it computes on the CPU, and counts what comes there.

Tensors on it say that they are on torch's meta device. As on a real one, an operation takes tensors
of one device, single numbers excepted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

ELSEWHERE = torch.device("meta")
CPU = torch.device("cpu")


class Away(Tensor):
    """A tensor on `ELSEWHERE`; ``held`` has its values."""

    held: Tensor

    @staticmethod
    def of(inner: Tensor) -> Away:
        made: Away = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]  # torch does not declare it
            Away,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=ELSEWHERE,
        )
        made.held = inner
        return made

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # torch's own has no types
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        return run(func, args, kwargs or {}, lambda inner: None)


class Elsewhere(TorchDispatchMode):
    """While it is entered, tensors can be moved to `ELSEWHERE` and made there.

    Attributes:
        arrived: elements of each tensor that was copied there.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's own has no types
        self.arrived: list[int] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        return run(func, args, kwargs or {}, lambda inner: self.arrived.append(inner.numel()))


def run(
    func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], arrive: Callable[[Tensor], None]
) -> Any:
    """``func`` on the values, and its results where it would leave them."""
    tensors = [each for each in pytree.tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
    away = any(isinstance(each, Away) for each in tensors)
    wanted = kwargs.get("device")
    moves = func is torch.ops.aten._to_copy.default
    if away and func is not torch.ops.aten.copy_.default:
        at_home = [each for each in tensors if not isinstance(each, Away) and each.ndim]
        assert not at_home or "index" in str(func), f"{func}: tensors of two devices"
    inner_args, inner_kwargs = pytree.tree_map_only(Away, lambda each: each.held, (args, kwargs))
    if wanted is not None:
        inner_kwargs = {**inner_kwargs, "device": CPU}
    if func is torch.ops.aten.detach.default:
        made = inner_args[0].detach()
    else:
        made = func(*inner_args, **inner_kwargs)
    there = away if wanted is None else torch.device(wanted) == ELSEWHERE
    if there and moves and not away:
        arrive(made)
    if not there:
        return made
    if func._schema.is_mutable and args and made is inner_args[0]:
        return args[0]
    return pytree.tree_map_only(
        Tensor, lambda each: each if isinstance(each, Away) else Away.of(each), made
    )
