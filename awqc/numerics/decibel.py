"""Ratios of energies, in decibels."""

from __future__ import annotations

import math


def decibel(signal: float | None, noise: float | None) -> float | None:
    """``10 log10(signal / noise)``; None where one is missing or zero.

    >>> decibel(100.0, 1.0)
    20.0
    """
    if signal is None or noise is None or signal <= 0 or noise <= 0:
        return None
    return 10 * math.log10(signal / noise)
