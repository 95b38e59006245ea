"""Swap two folders in one step, where the system can."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

AT_FDCWD = -100
RENAME_EXCHANGE = 2


def exchange(one: Path, two: Path) -> bool:
    """Let ``one`` and ``two`` trade places at once; False, and nothing done, if that cannot be.

    Linux has it from 3.15 on, most of its file systems do. The reason of a failure is not told:
    plain renames, which the caller falls back on, meet the same one and tell it.
    """
    call = _renameat2()
    return call is not None and call(os.fsencode(one), os.fsencode(two)) == 0


@cache
def _renameat2() -> Callable[[bytes, bytes], int] | None:
    if sys.platform != "linux":
        return None
    try:
        function = ctypes.CDLL(None).renameat2
    except (OSError, AttributeError):
        return None
    function.argtypes = (
        ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint
    )  # fmt: skip
    return lambda one, two: int(function(AT_FDCWD, one, AT_FDCWD, two, RENAME_EXCHANGE))
