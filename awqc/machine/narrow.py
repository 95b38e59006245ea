"""Tensors that are kept in half precision, and read in float32 while something computes with them.

A checkpoint in bfloat16 stays in its file, mapped; no float32 copy of it is ever whole in memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

WIDE = torch.float32
NARROW = (torch.bfloat16, torch.float16)
"""Dtypes of which float32 holds every value."""


class Narrow(nn.Parameter):
    """A parameter that is stored narrower than it is read.

    To whoever computes with it, it is a float32 tensor: each operation gets a float32 copy, which
    goes when the operation ends. It says that its dtype is float32; its shape, its place in
    memory and its size in bytes are those of what is stored. It cannot be written to, so that
    copies of it are itself.

    >>> stored = Narrow.of(torch.ones(2, 3, dtype=torch.bfloat16))
    >>> stored.dtype, (stored @ torch.ones(3)).dtype
    (torch.float32, torch.float32)
    """

    @staticmethod
    def of(stored: Tensor) -> Narrow:
        """``stored``, of one of the dtypes `NARROW`, as a float32 parameter."""
        assert stored.dtype in NARROW, stored.dtype
        made: Narrow = torch.Tensor._make_subclass(Narrow, stored.detach(), False)
        return made

    def stored(self) -> Tensor:
        """What is stored, in its own dtype, in the same memory."""
        with torch._C.DisableTorchFunctionSubclass():
            return self.detach().as_subclass(torch.Tensor)

    @classmethod
    def __torch_function__(
        cls,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """As in torch: ``func`` is called with float32 in place of what is stored."""
        kwargs = kwargs or {}
        with torch._C.DisableTorchFunctionSubclass():
            if func in _AS_STORED:
                return func(*args, **kwargs)
            if func is _DTYPE:
                return WIDE
            if func in _PICKING:
                args, kwargs = pytree.tree_map_only(Narrow, Narrow.stored, (args, dict(kwargs)))
                return func(*args, **kwargs).to(WIDE)
            _refuse_writing(func, args)
            args, kwargs = pytree.tree_map_only(Narrow, _widened, (args, dict(kwargs)))
            return func(*args, **kwargs)

    def __deepcopy__(self, memo: object) -> Narrow:
        return self

    def __reduce_ex__(self, protocol: Any) -> Any:
        return nn.Parameter(_widened(self), requires_grad=False).__reduce_ex__(protocol)


def _widened(value: Narrow) -> Tensor:
    return value.stored().to(WIDE)


def _refuse_writing(func: Any, args: tuple[Any, ...]) -> None:
    name = getattr(func, "__name__", "")
    writes = name == "__setitem__" or (name.endswith("_") and not name.endswith("__"))
    if writes and args and isinstance(args[0], Narrow):
        raise RuntimeError(f"{name}: a tensor that is kept in half precision cannot be written to")


_DTYPE = Tensor.dtype.__get__  # type: ignore[attr-defined]  # a descriptor, which mypy takes for its value
_AS_STORED = {
    *(
        getattr(Tensor, name).__get__
        for name in (
            "shape",
            "ndim",
            "device",
            "layout",
            "requires_grad",
            "is_leaf",
            "is_meta",
            "is_quantized",
            "is_sparse",
            "is_cuda",
            "grad",
            "grad_fn",
            "nbytes",
        )
    ),
    Tensor.requires_grad.__set__,  # type: ignore[attr-defined]  # as above
    Tensor.requires_grad_,
    Tensor.size,
    Tensor.dim,
    Tensor.numel,
    Tensor.element_size,
    Tensor.stride,
    Tensor.storage_offset,
    Tensor.is_floating_point,
    Tensor.is_complex,
    Tensor.is_contiguous,
    Tensor.untyped_storage,
    torch.is_floating_point,
    torch.is_complex,
    torch.numel,
}
"""What is asked of a tensor and not computed with it."""
_PICKING = {torch.embedding, torch.ops.aten.embedding.default, torch.nn.functional.embedding}
"""Operations that give some of the elements: these alone are widened."""
