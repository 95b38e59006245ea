"""The request: how finely weights are to be quantized, and which are to be left alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from awqc.errors import UsageError, spelled
from awqc.numerics.formats.base import WeightFormat
from awqc.numerics.formats.found import fitting_format, named_format
from awqc.numerics.formats.int_grid import (
    AUTO_GROUPS,
    BITS,
    Bits,
    IntGrid,
    resolve_group_size,
)
from awqc.numerics.name_patterns import check_pattern, names_weight

TABLE_BITS = (0, 8)
TABLE = IntGrid(8, -1, symmetric=True)
"""Of embedding tables: rows are looked up as codes."""
NAMED_TABLE, IN_A_BLOCK = "Q8_0", 32
"""The same where formats are asked for by name."""
NAMED_WIDTHS = {2: "Q2_K", 3: "Q3_K", 4: "Q4_K", 5: "Q5_K", 6: "Q6_K", 8: "Q8_0"}
"""Formats by bits: of a head, and of a weight with a width of its own, where formats are named."""
WIDTHS = tuple(NAMED_WIDTHS)
"""That a weight can have of its own."""
ROUNDINGS = ("nearest", "gptq")


class Cut(NamedTuple):
    """How finely one weight is cut, where that was chosen for it alone.

    Attributes:
        width: bits of a code.
        group_size: columns a scale; None: as the request says.
    """

    width: int
    group_size: int | None = None


@dataclass(frozen=True)
class QuantizationSpec:
    """The request of the user's, for all weights.

    Attributes:
        bits: width of a code: 2, 3, 4 or 8.
        group_size: columns a scale, -1 for one scale a row, or ``auto``.
        symmetric: fix the zero point at the midpoint.
        exclude: patterns (`awqc.numerics.name_patterns`); weights that they fit are left alone.
        head_bits: width for the product that makes a language model's logits; 0: float.
        embed_bits: width for embedding tables, a scale a row; 0: float.
        conv_bits: width for kernels of convolutions, a scale a channel; 0: float; None: `bits`.
        rounding: ``nearest``, or ``gptq``: later columns compensate the errors of earlier ones.
        clip: search each group's range instead of taking its minimum and maximum.
        sweeps: of coordinate descent that improve codes and scales afterwards.
        weight_format: a format that is asked for by name; ``bits``, ``group_size`` and
            ``symmetric`` are then for the weights that it has no place for.
    """

    bits: Bits = 4
    group_size: int | str = "auto"
    symmetric: bool = False
    exclude: tuple[str, ...] = ()
    head_bits: int = 8
    embed_bits: int = 8
    conv_bits: int | None = None
    rounding: str = "nearest"
    clip: bool = False
    sweeps: int = 0
    weight_format: str = ""

    def __post_init__(self) -> None:
        if self.bits not in BITS:
            raise UsageError(f"{spelled('bits', self.bits)} is not supported; choose one of {BITS}")
        if self.head_bits not in (0, *BITS):
            raise UsageError(
                f"{spelled('head_bits', self.head_bits)}: choose 0 (float) or one of {BITS}"
            )
        if self.embed_bits not in TABLE_BITS:
            raise UsageError(f"{spelled('embed_bits', self.embed_bits)}: choose 0 (float) or 8")
        if self.conv_bits not in (None, 0, *BITS):
            raise UsageError(
                f"{spelled('conv_bits', self.conv_bits)}: choose 0 (float) or one of {BITS}"
            )
        if self.rounding not in ROUNDINGS:
            raise UsageError(
                f"{spelled('rounding', self.rounding)}: choose one of {', '.join(ROUNDINGS)}"
            )
        resolve_group_size(self.group_size, 1)
        if self.weight_format:
            named_format(self.weight_format)
        for pattern in self.exclude:
            check_pattern(pattern)

    @property
    def learns(self) -> bool:
        """Whether codes depend on the moments of what the products read."""
        return self.rounding != "nearest" or self.clip or self.sweeps > 0

    def format_of(
        self, columns: int, *, grouped: bool = True, head: bool = False, cut: Cut | None = None
    ) -> WeightFormat:
        """How finely a weight of ``columns`` is cut.

        Args:
            columns: of the matrix that the weight is seen as.
            grouped: whether columns may be cut into groups; else a scale a row.
            head: whether it makes a language model's logits.
            cut: what was chosen for this weight.
        """
        width, own_group = cut or (None, None)
        if self.weight_format and grouped:
            name = NAMED_WIDTHS[self.head_bits] if head else self.weight_format
            found = fitting_format(name if width is None else NAMED_WIDTHS[width], columns)
            if found is not None:
                return found
        own = self.bits if grouped else self.conv_bits or self.bits
        bits = width or (self.head_bits if head else own)
        asked = self.group_size if own_group is None else own_group
        group_size = resolve_group_size(asked, columns) if grouped else -1
        return IntGrid(bits, group_size, self.symmetric)  # type: ignore[arg-type]  # one of `BITS`, as its makers check

    def why_not(self, columns: int, *, grouped: bool = True) -> str | None:
        """Why such a weight does not get the format that is asked for by name, if it does not."""
        if not self.weight_format:
            return None
        if not grouped:
            return f"{self.weight_format} cuts groups, and a kernel gets one scale a channel"
        return named_format(self.weight_format).why_not(columns)

    def table_format(self, columns: int) -> WeightFormat:
        """How an embedding table of ``columns`` is cut."""
        if self.weight_format and columns % IN_A_BLOCK == 0:
            return named_format(NAMED_TABLE)
        return TABLE

    @property
    def asked(self) -> WeightFormat:
        """The format of most weights, whatever the size of their groups."""
        if self.weight_format:
            return named_format(self.weight_format)
        return IntGrid(self.bits, -1, self.symmetric)

    def choices(
        self, form: WeightFormat, widths: Sequence[int], columns: int
    ) -> dict[Cut, WeightFormat]:
        """What a weight of ``columns`` in ``form`` could be, with one of ``widths``.

        Where groups are ``auto``, smaller ones that divide the columns are choices as well, but
        for codes that are fine in any. None where its width was not the one asked for.
        """
        if self.weight_format and form == fitting_format(self.weight_format, columns):
            return {Cut(width): self.format_of(columns, cut=Cut(width)) for width in widths}
        if not isinstance(form, IntGrid) or form.bits != self.bits:
            return {}
        found: dict[Cut, WeightFormat] = {}
        for width in widths:
            found[Cut(width)] = whole = form.with_bits(width)
            smaller = self._smaller_groups(form, columns) if not whole.fine else ()
            for group_size in smaller:
                found[Cut(width, group_size)] = replace(whole, group_size=group_size)
        return found

    def _smaller_groups(self, form: IntGrid, columns: int) -> list[int]:
        """Sizes that ``auto`` leaves open below that of ``form``."""
        if self.group_size != "auto":
            return []
        return [size for size in AUTO_GROUPS if size < form.group_size and columns % size == 0]

    def metadata(self) -> dict[str, str]:
        """What a file says of itself."""
        return {"awqc.bits": str(self.bits)}

    def describe(self) -> dict[str, Any]:
        """All that follows from the request, for a recipe."""
        return {
            "bits": self.bits,
            "group_size": self.group_size,
            "symmetric": self.symmetric,
            "exclude": list(self.exclude),
            "head_bits": self.head_bits,
            "embed_bits": self.embed_bits,
            **({} if self.conv_bits is None else {"conv_bits": self.conv_bits}),
            "rounding": self.rounding,
            "clip": self.clip,
            "sweeps": self.sweeps,
            **({"weight_format": self.weight_format} if self.weight_format else {}),
        }

    def excluded(self, weight: str) -> str | None:
        """Why this weight is left alone, if the user wants that."""
        pattern = next((pattern for pattern in self.exclude if names_weight(pattern, weight)), None)
        return None if pattern is None else f"excluded by the user ({pattern})"
