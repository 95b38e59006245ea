"""Values of options that text stands for: sizes, patterns, axes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from awqc.errors import UsageError, spelled

_LABEL = re.compile(r"[A-Za-z_]\w{0,99}( \+ [A-Za-z_]\w{0,99})*", re.ASCII)


def parse_size(size: int | str) -> int:
    """Bytes of a number, or of text such as ``90MB`` or ``1.5 GiB``.

    Raises:
        UsageError: it reads like neither.

    >>> parse_size("90MB"), parse_size("2 KiB"), parse_size(7)
    (90000000, 2048, 7)
    """
    form = r"\s*(\d{1,18}(?:\.\d{1,18})?)\s*([kmg]?)(i?)b?\s*"
    match = re.fullmatch(form, str(size), re.IGNORECASE)
    if match is None or float(match[1]) == 0:
        raise UsageError(f"size {size!r}: write bytes, or a number with KB, MB, GB, KiB, MiB, GiB")
    power = " kmg".index(match[2].lower() or " ")
    return int(float(match[1]) * (1024 if match[3] else 1000) ** power)


def parse_image_size(size: str) -> tuple[int, int]:
    """Height and width of text such as ``480x640``.

    Raises:
        UsageError: it reads otherwise.

    >>> parse_image_size("480x640")
    (480, 640)
    """
    match = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", size, re.ASCII | re.IGNORECASE)
    if match is None:
        raise UsageError(
            f"{spelled('image_size', size)}: write height x width in pixels, as 480x640"
        )
    return int(match[1]), int(match[2])


def check_size(name: str, size: Any) -> None:
    """Refuse a value of the option ``name`` that is no size.

    Raises:
        UsageError: see `parse_size`.
    """
    try:
        parse_size(size)
    except UsageError as error:
        raise UsageError(f"{spelled(name)}: {error.text}") from error


def check_seed(seed: int) -> None:
    """Refuse a seed that no generator takes.

    Raises:
        UsageError: it has more than 64 bits.
    """
    if not -(2**63) <= seed < 2**63:
        raise UsageError(f"{spelled('seed', seed)}: give a whole number of at most 64 bits")


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
        if not colon or not name or not axis.isdecimal():
            raise UsageError(
                f"{spelled('dynamic', item)}: write NAME:AXIS or NAME:AXIS=LABEL, as x:1=seq"
            )
        if label:
            _check_label(label)
        axes.setdefault(name, {})[int(axis)] = label or f"{name}_axis_{axis}"
    return axes


def check_axes(axes: Mapping[Any, Any]) -> None:
    """Refuse dynamic axes that are no numbers by input name, with names or without.

    Raises:
        UsageError: with the input.
    """
    for name, given in axes.items():
        numbers = isinstance(given, Sequence | Mapping) and not isinstance(given, str)
        named = not isinstance(given, Mapping) or all(isinstance(n, str) for n in given.values())
        if not numbers or not named or not all(type(axis) is int for axis in given):
            raise UsageError(
                f"{spelled('dynamic')}: for {name!r} give axes as [0, 1], or with names, "
                "as {0: 'batch'}"
            )
        for label in given.values() if isinstance(given, Mapping) else ():
            _check_label(label)


def _check_label(label: str) -> None:
    """Refuse a name of an axis that is no word, nor a sum of words."""
    if not _LABEL.fullmatch(label):
        raise UsageError(
            f"{spelled('dynamic')}: {label!r} is no name of an axis; give a word, as seq"
        )


def read_parts(items: tuple[str, ...]) -> dict[str, str]:
    """``NAME=MODULE`` items as paths of modules by the name of the part.

    Raises:
        UsageError: an item does not read like that, or two have one name.

    >>> read_parts(("text=text_model", "decoder=vae.decode"))
    {'text': 'text_model', 'decoder': 'vae.decode'}
    """
    parts: dict[str, str] = {}
    for item in items:
        name, sign, path = item.partition("=")
        if not sign or not path or not name:
            raise UsageError(f"{spelled('part', item)}: write NAME=MODULE, as text=text_model")
        if name in parts:
            raise UsageError(f"{spelled('part', item)}: another part is called {name} already")
        parts[name] = path
    return parts


def check_parts(parts: Mapping[Any, Any]) -> None:
    """Refuse names of parts that cannot be names of folders.

    Raises:
        UsageError: there is one.
    """
    for name, path in parts.items():
        if not (isinstance(name, str) and isinstance(path, str) and name.isidentifier()):
            raise UsageError(
                f"{spelled('part', f'{name}={path}')}: a name of letters, digits and _ is needed, "
                "and the path of a module"
            )
