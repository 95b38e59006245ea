"""Paths as callers give them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from awqc.errors import UsageError


def given_path(value: Any, what: str) -> Path:
    """``value`` as a path, with ``~`` for the home; ``what`` it is for is said where it is none.

    Raises:
        UsageError: it is of another type, or holds a zero byte.
    """
    if not isinstance(value, str | os.PathLike) or isinstance(os.fspath(value), bytes):
        raise UsageError(f"{what} is a {type(value).__name__}; a path is needed")
    if "\0" in os.fspath(value):
        raise UsageError(f"{what} {os.fspath(value)!r}: a path cannot hold a zero byte")
    return Path(value).expanduser()
