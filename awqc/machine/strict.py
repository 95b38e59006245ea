"""Second-best ways: each is told, and where `STRICT` is set none is taken.

A fallback hides what made it necessary, and a fault of awqc's own with it. So each is a call of
`fall_back`, which notes it for the user. The tests of awqc set `STRICT` in the environment: then
it raises instead, and what a test does not expect cannot pass unseen.
"""

from __future__ import annotations

import os
from collections.abc import Callable

STRICT = "AWQC_STRICT"


class FallbackError(Exception):
    """A second-best way would have been taken, where none is to be."""


def is_strict() -> bool:
    """Whether the environment asks for no fallback."""
    return os.environ.get(STRICT, "") not in ("", "0")


def fall_back(tell: Callable[[str], object], note: str, error: Exception) -> None:
    """``tell`` the ``note``: the caller goes on in a second-best way after ``error``.

    Raises:
        FallbackError: `STRICT` is set.
    """
    if is_strict():
        raise FallbackError(note) from error
    tell(note)
