"""Which weights are quantized, and how finely."""

from __future__ import annotations

import re
from dataclasses import dataclass

from awqc.linears import Linear
from awqc.qparams import BITS, Bits, Granularity, resolve_group_size
from awqc.errors import UsageError


@dataclass(frozen=True)
class QuantizationSpec:
    """The request of the user's, for all weights.

    Attributes:
        bits: width of a code: 2, 3, 4 or 8.
        group_size: columns a scale, -1 for one scale a row, or ``auto``.
        symmetric: fix the zero point at the midpoint.
        exclude: regular expressions; weights whose name they find are left alone.
    """

    bits: Bits = 4
    group_size: int | str = "auto"
    symmetric: bool = False
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.bits not in BITS:
            raise UsageError(f"bits={self.bits} is not supported; choose one of {BITS}")
        resolve_group_size(self.group_size, 1)
        for pattern in self.exclude:
            try:
                re.compile(pattern)
            except re.error as error:
                raise UsageError(f"--exclude {pattern!r} is no regular expression: {error}") from error

    def excluded(self, weight: str) -> bool:
        """Whether the user wants this weight left alone."""
        return any(re.search(pattern, weight) for pattern in self.exclude)

    def granularity(self, linear: Linear) -> Granularity:
        """How finely ``linear``'s weight is cut.

        Products that read each input channel with one column are grouped as asked; other
        convolutions get one scale for each output channel.
        """
        group_size = -1
        if linear.pointwise:
            group_size = resolve_group_size(self.group_size, linear.columns)
        return Granularity(self.bits, group_size, self.symmetric)

    def refusal(self, linear: Linear) -> str | None:
        """Why ``linear``'s weight is left in float, or None if it is to be quantized."""
        if self.excluded(linear.weight_name):
            return "excluded by the user"
        if linear.blocks > 1 and linear.rows == linear.blocks:
            return f"depthwise: only {linear.columns} weights share a scale"
        for user in linear.weight.users:
            if len(user.args) < 2 or user.args[1] is not linear.weight:
                return f"the weight is also read by {user.name}"
        return None
