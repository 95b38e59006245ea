"""Values of options that text stands for: sizes, patterns, axes."""

from __future__ import annotations

import re
from typing import Any

from awqc.errors import UsageError, spelled


def parse_size(size: int | str) -> int:
    """Bytes of a number, or of text such as ``90MB`` or ``1.5 GiB``.

    Raises:
        UsageError: it reads like neither.

    >>> parse_size("90MB"), parse_size("2 KiB"), parse_size(7)
    (90000000, 2048, 7)
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmg]?)(i?)b?\s*", str(size), re.IGNORECASE)
    if match is None or float(match[1]) == 0:
        raise UsageError(f"size {size!r}: write bytes, or a number with KB, MB, GB, KiB, MiB, GiB")
    power = " kmg".index(match[2].lower() or " ")
    return int(float(match[1]) * (1024 if match[3] else 1000) ** power)


def check_size(size: Any) -> None:
    """Refuse a budget that is no size.

    Raises:
        UsageError: see `parse_size`.
    """
    try:
        parse_size(size)
    except UsageError as error:
        raise UsageError(f"{spelled('budget')}: {error.text}") from error


def read_axes(items: tuple[str, ...]) -> dict[str, dict[int, str]]:
    """``NAME:AXIS[=LABEL]`` items as axes by input name.

    Raises:
        UsageError: an item does not read like that.

    >>> read_axes(("x:1=seq", "y:0"))
    {'x': {1: 'seq'}, 'y': {0: 'y_axis_0'}}
    """
    axes: dict[str, dict[int, str]] = {}
    for item in items:
        place, _, label = item.partition("=")
        name, colon, axis = place.rpartition(":")
        if not colon or not name or not axis.isdigit():
            raise UsageError(
                f"{spelled('dynamic', item)}: write NAME:AXIS or NAME:AXIS=LABEL, as x:1=seq"
            )
        axes.setdefault(name, {})[int(axis)] = label or f"{name}_axis_{axis}"
    return axes
