"""Sizes that stay symbols where a model's code asks for them as plain numbers.

``len(x)`` of a tensor and ``int(size / 2)`` give numbers of Python, which fixes an axis for the
whole graph. While a model is traced, the names ``len`` and ``int`` in the files of its modules
mean functions that keep symbols.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

SYMBOLS = (torch.SymInt, torch.SymFloat)


@contextmanager
def symbolic_sizes(module: nn.Module) -> Iterator[None]:
    """Let the code of ``module`` and its submodules keep symbols of sizes."""
    changed: list[tuple[ModuleType, str]] = []
    try:
        for file in _files(module):
            for name, kept in {"len": _length, "int": _Whole}.items():
                if name not in vars(file):
                    setattr(file, name, kept)
                    changed.append((file, name))
        yield
    finally:
        for file, name in changed:
            delattr(file, name)


def _files(module: nn.Module) -> list[ModuleType]:
    """The Python modules that define the classes of the modules; those of torch stay."""
    names = {type(each).__module__ for each in module.modules()}
    found = (sys.modules.get(name) for name in sorted(names) if name.partition(".")[0] != "torch")
    return [file for file in found if file is not None]


def _length(value: Any) -> Any:
    """``len(value)``: of a tensor its first size, which may be a symbol."""
    return value.shape[0] if isinstance(value, Tensor) and value.ndim else len(value)


class _AsInt(type):
    """What is compared with `_Whole` is compared with ``int``."""

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, int)

    def __subclasscheck__(cls, subclass: type) -> bool:
        return issubclass(subclass, int)

    def __eq__(cls, other: object) -> bool:
        return other is int or other is cls

    def __hash__(cls) -> int:
        return hash(int)


class _Whole(int, metaclass=_AsInt):
    """``int(value)``; of a symbol a symbol."""

    def __new__(cls, value: Any = 0, *base: Any) -> Any:
        """The whole number of ``value``, towards zero."""
        return torch.sym_int(value) if isinstance(value, SYMBOLS) else int(value, *base)
