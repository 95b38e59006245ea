"""Which formats there are: every file of this folder is one, or what formats are made of."""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Iterator
from importlib import import_module
from typing import Any

from awqc.errors import UsageError
from awqc.numerics import formats
from awqc.numerics.formats.base import WeightFormat, bind_call
from awqc.numerics.formats.ggml import GgmlFormat
from awqc.numerics.formats.int_grid import IntGrid


def _found() -> tuple[type[WeightFormat], ...]:
    for module in pkgutil.iter_modules(formats.__path__):
        if module.name != "found":
            import_module(f"{formats.__name__}.{module.name}")
    return tuple(sorted(set(_whole()), key=lambda cls: cls.__name__))


def _whole() -> Iterator[type[WeightFormat]]:
    """The classes of formats that lack nothing."""
    left = list(WeightFormat.__subclasses__())
    while left:
        made = left.pop()
        left += made.__subclasses__()
        if not inspect.isabstract(made) and hasattr(made, "operation"):
            yield made


FOUND = _found()
NAMED: dict[str, WeightFormat] = {
    # Whole numbers that go by another name in GGUF.
    "Q8_0": IntGrid(8, 32, symmetric=True),
    **{cls.name: cls() for cls in FOUND if cls.name},
}
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
    return NAMED[name]


def fitting_format(name: str, columns: int) -> WeightFormat | None:
    """The format called ``name``, or the one in its place, that holds rows of ``columns``."""
    form: WeightFormat | None = named_format(name)
    while form is not None and form.why_not(columns) is not None:
        second = form.second if isinstance(form, GgmlFormat) else ""
        form = named_format(second) if second else None
    return form


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
