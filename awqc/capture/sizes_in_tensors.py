"""Tensors that a model's code makes of sizes, which stay symbols in them.

``torch.tensor([height, width])`` holds numbers of Python, and ``torch.linspace(0, 1, width)`` takes
a plain number of steps: both would fix the axes for the whole graph. While a model is traced they
are made of operations that take symbols.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from awqc.capture.symbolic_sizes import SYMBOLS

MAKERS = (torch.tensor, torch.as_tensor, Tensor.new_tensor)


class SizesInTensors(TorchFunctionMode):
    """Let tensors keep the symbols of sizes that they are made of."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """What ``func`` makes."""
        given = kwargs or {}
        if func in MAKERS:
            made = _of_nest(func, args, given)
        else:
            made = _evenly(*args, **given) if func is torch.linspace else None
        return func(*args, **given) if made is None else made


def _of_nest(func: Any, args: tuple[Any, ...], given: dict[str, Any]) -> Tensor | None:
    """The tensor of lists and tuples around numbers; None where none of them is a symbol."""
    own = args[1:] if func is Tensor.new_tensor else args
    data = own[0] if own else given.get("data")
    if not any(isinstance(leaf, SYMBOLS) for leaf in pytree.tree_leaves(data)):
        return None
    rest = {key: given[key] for key in ("dtype", "device") if key in given}
    if func is Tensor.new_tensor:
        rest = {"dtype": args[0].dtype, "device": args[0].device, **rest}
    return _made(data, **rest, **dict(zip(("dtype", "device"), own[1:], strict=False)))


def _made(data: Any, dtype: Any = None, device: Any = None) -> Tensor:
    if isinstance(data, Tensor):
        return data.to(dtype=dtype, device=device)
    if not isinstance(data, list | tuple):
        whole = torch.int64 if isinstance(data, int | torch.SymInt) else None
        return torch.scalar_tensor(data, dtype=dtype or whole, device=device)
    return torch.stack([_made(each, dtype, device) for each in data])


def _evenly(
    start: Any, end: Any, steps: Any, *, dtype: Any = None, device: Any = None, **more: Any
) -> Tensor | None:
    """``start + i (end - start) / (steps - 1)``; None where ``steps`` is no symbol.

    The other numbers may be symbols as well.
    """
    dtype = dtype or torch.get_default_dtype()
    known = not isinstance(steps, torch.SymInt)
    if known or more or not dtype.is_floating_point or isinstance(start, Tensor | list):
        return None
    first, last = (torch.scalar_tensor(each, dtype=dtype, device=device) for each in (start, end))
    parts = torch.scalar_tensor(torch.sym_max(steps - 1, 1), dtype=dtype, device=device)
    return first + torch.arange(steps, dtype=dtype, device=device) * ((last - first) / parts)
