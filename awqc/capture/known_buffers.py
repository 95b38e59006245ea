"""Buffers whose values are known while torch.export looks, so that code may ask for them.

``if self.share[2] > 0:`` depends on no input: a buffer is what it is. torch has its elements
without values in a trace and refuses the branch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch._subclasses import FakeTensor, FakeTensorMode

MOST_ELEMENTS = 64
"""Of a buffer that says what a model does; one with more is a table that it computes with."""


@contextmanager
def known_buffers(module: nn.Module) -> Iterator[None]:
    """Let what is traced of ``module`` know the values of its small buffers.

    A module whose forward writes into one is refused elsewhere: it keeps a state.
    """
    small = {id(each): each for each in module.buffers() if each.numel() <= MOST_ELEMENTS}
    own = FakeTensorMode.from_tensor

    def from_tensor(mode: FakeTensorMode, tensor: Tensor, **more: Any) -> FakeTensor:
        made = own(mode, tensor, **more)
        if id(tensor) in small:
            made.constant = tensor.detach().clone()
        return made

    FakeTensorMode.from_tensor = from_tensor  # type: ignore[method-assign,assignment]  # put back
    try:
        yield
    finally:
        FakeTensorMode.from_tensor = own  # type: ignore[method-assign]  # put back
