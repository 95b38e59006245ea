"""Memory: how much is there, and giving freed memory back to the system."""

from __future__ import annotations

import ctypes
import gc
import sys
from pathlib import Path


def available() -> int:
    """Bytes that can still be taken; a very large number where the system does not tell."""
    path = Path("/proc/meminfo")
    for line in path.read_text().splitlines() if path.exists() else ():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return sys.maxsize


def release() -> None:
    """Free cycles that nobody refers to, and hand whole free pages back."""
    gc.collect()
    trim()


def trim() -> None:
    """Hand whole free pages back to the system, where glibc manages memory.

    glibc keeps freed memory for later use: hundreds of megabytes after large temporaries, and
    more where small blocks that stay lie between them.
    """
    if _TRIM is not None:
        _TRIM(0)


_TRIM = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
