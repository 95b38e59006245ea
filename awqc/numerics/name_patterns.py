"""Patterns that name weights: regular expressions, or what other tools write with ``re:``."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from difflib import SequenceMatcher

from awqc.errors import UsageError, spelled

PREFIX = "re:"
"""Before an expression that must match from the start of a module's name, as other tools do it."""

NEAREST = 3


def check_pattern(pattern: str) -> None:
    """Refuse what is no regular expression.

    Raises:
        UsageError: with the reason.
    """
    try:
        re.compile(pattern.removeprefix(PREFIX))
    except (re.error, OverflowError, RecursionError) as error:
        raise UsageError(
            f"{spelled('exclude', pattern)} is no regular expression: {error}"
        ) from error


def names_weight(pattern: str, weight: str) -> bool:
    """Whether ``pattern`` names ``weight``.

    An expression may be found anywhere in the name. After ``re:`` it must match from the start,
    the weight's name or that of the module that holds it.

    >>> [names_weight(pattern, "layers.0.down.weight") for pattern in ("up|down", "^down")]
    [True, False]
    >>> [names_weight(pattern, "layers.0.down.weight") for pattern in ("re:.*down$", "re:down")]
    [True, False]
    """
    if not pattern.startswith(PREFIX):
        return re.search(pattern, weight) is not None
    expression = re.compile(pattern.removeprefix(PREFIX))
    return any(expression.match(name) for name in (weight, weight.rpartition(".")[0]))


def check_fits(patterns: Iterable[str], names: Collection[str], model: str) -> None:
    """Refuse a pattern that names none of ``names``, the tensors of ``model``.

    Raises:
        UsageError: with the names that are nearest to it.
    """
    for pattern in patterns:
        if not any(names_weight(pattern, name) for name in names):
            near = ", ".join(nearest(pattern, names))
            raise UsageError(
                f"{spelled('exclude', pattern)} matches no weight of {model}"
                + (f"; the nearest names: {near}" if near else "")
                + ". Correct it or leave it out; `awqc explain` lists all names"
            )


def nearest(pattern: str, names: Iterable[str]) -> list[str]:
    """At most `NEAREST` of ``names`` that are most like ``pattern``; of numbered ones the first.

    >>> nearest("down_prj", ["layers.0.up_proj.weight", "layers.0.down_proj.weight"])[0]
    'layers.0.down_proj.weight'
    """
    text = re.sub(r"\\.|[^\w.]", "", pattern.removeprefix(PREFIX)).strip("._")
    distinct: dict[str, str] = {}
    for name in names:
        distinct.setdefault(re.sub(r"\d+", "0", name), name)
    return sorted(distinct.values(), key=lambda name: -_likeness(text, name))[:NEAREST]


def _likeness(text: str, name: str) -> float:
    """How like ``text`` the name is, or the run of its parts that is most like it."""
    parts = name.split(".")
    runs = (
        ".".join(parts[first:end])
        for first in range(len(parts))
        for end in range(first + 1, len(parts) + 1)
    )
    return max(SequenceMatcher(None, text, run).ratio() for run in runs)
