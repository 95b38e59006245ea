"""Patterns that name weights of a model, for the compile of one of its parts."""

from __future__ import annotations

import re
from collections.abc import Iterable

from awqc.numerics.name_patterns import names_weight
from awqc.passes.canonicalize import Canonicalize
from awqc.program import Program


def patterns_within(patterns: Iterable[str], program: Program, path: str) -> tuple[str, ...]:
    """The weights of ``program``, which lies at ``path`` in its model, that ``patterns`` fit.

    Each as a pattern for its name in the part, so that the part's recipe says what was left out.
    """
    patterns = tuple(patterns)
    if not patterns:
        return ()
    canonical = program.clone()
    Canonicalize().apply(canonical)
    canonical.tidy()
    return tuple(
        f"^{re.escape(name)}$"
        for name in canonical.parameters()
        if any(names_weight(pattern, f"{path}.{name}") for pattern in patterns)
    )
