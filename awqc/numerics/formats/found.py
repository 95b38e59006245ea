"""Which formats there are: every file of this folder is one, or what formats are made of."""

from __future__ import annotations

import pkgutil
from importlib import import_module
from typing import Any

from awqc.errors import UsageError
from awqc.numerics import formats
from awqc.numerics.formats.base import WeightFormat, bind_call


def _found() -> tuple[type[WeightFormat], ...]:
    for module in pkgutil.iter_modules(formats.__path__):
        if module.name != "found":
            import_module(f"{formats.__name__}.{module.name}")
    return tuple(sorted(WeightFormat.__subclasses__(), key=lambda cls: cls.__name__))


FOUND = _found()
NAMED = {cls.name: cls for cls in FOUND if cls.name}
"""The formats that a user can ask for by name."""
_BY_OPERATION: dict[Any, type[WeightFormat]] = {cls.operation: cls for cls in FOUND}


def named_format(name: str) -> WeightFormat:
    """The format called ``name``.

    Raises:
        UsageError: there is none.
    """
    if name not in NAMED:
        raise UsageError(
            f"weight format {name!r} is unknown; choose {', '.join(sorted(NAMED))}, or leave it "
            "out for whole numbers of so many bits"
        )
    return NAMED[name]()


def dequantizes(target: Any) -> bool:
    """Whether a call of ``target`` makes a weight from what stores it."""
    return target in _BY_OPERATION


def read_call(
    target: Any, args: Any, kwargs: Any
) -> tuple[WeightFormat, dict[str, Any], tuple[int, ...]]:
    """Format, arguments by role, and the weight's shape, of a call of a format's operation."""
    cls = _BY_OPERATION[target]
    bound = bind_call(target, args, kwargs)
    count = len(cls.roles)
    held = {role: arg for role, arg in zip(cls.roles, bound, strict=False) if arg is not None}
    shape, *constants = bound[count:]
    return cls.of_call(frozenset(held), *constants), held, tuple(int(size) for size in shape)
