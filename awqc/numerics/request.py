"""The request: how finely weights are to be quantized, and which are to be left alone."""

from __future__ import annotations

import re
from dataclasses import dataclass

from awqc.errors import UsageError, spelled
from awqc.numerics.qparams import BITS, Bits, resolve_group_size

TABLE_BITS = (0, 8)
ROUNDINGS = ("nearest", "gptq")


@dataclass(frozen=True)
class QuantizationSpec:
    """The request of the user's, for all weights.

    Attributes:
        bits: width of a code: 2, 3, 4 or 8.
        group_size: columns a scale, -1 for one scale a row, or ``auto``.
        symmetric: fix the zero point at the midpoint.
        exclude: regular expressions; weights whose name they find are left alone.
        head_bits: width for the product that makes a language model's logits; 0: float.
        embed_bits: width for embedding tables, a scale a row; 0: float.
        rounding: ``nearest``, or ``gptq``: later columns compensate the errors of earlier ones.
        clip: search each group's range instead of taking its minimum and maximum.
        sweeps: of coordinate descent that improve codes and scales afterwards.
    """

    bits: Bits = 4
    group_size: int | str = "auto"
    symmetric: bool = False
    exclude: tuple[str, ...] = ()
    head_bits: int = 8
    embed_bits: int = 8
    rounding: str = "nearest"
    clip: bool = False
    sweeps: int = 0

    def __post_init__(self) -> None:
        if self.bits not in BITS:
            raise UsageError(f"{spelled('bits', self.bits)} is not supported; choose one of {BITS}")
        if self.head_bits not in (0, *BITS):
            raise UsageError(
                f"{spelled('head_bits', self.head_bits)}: choose 0 (float) or one of {BITS}"
            )
        if self.embed_bits not in TABLE_BITS:
            raise UsageError(f"{spelled('embed_bits', self.embed_bits)}: choose 0 (float) or 8")
        if self.rounding not in ROUNDINGS:
            raise UsageError(
                f"{spelled('rounding', self.rounding)}: choose one of {', '.join(ROUNDINGS)}"
            )
        resolve_group_size(self.group_size, 1)
        for pattern in self.exclude:
            try:
                re.compile(pattern)
            except re.error as error:
                raise UsageError(
                    f"{spelled('exclude', pattern)} is no regular expression: {error}"
                ) from error

    @property
    def learns(self) -> bool:
        """Whether codes depend on the moments of what the products read."""
        return self.rounding != "nearest" or self.clip or self.sweeps > 0

    def excluded(self, weight: str) -> bool:
        """Whether the user wants this weight left alone."""
        return any(re.search(pattern, weight) for pattern in self.exclude)
