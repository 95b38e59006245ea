"""What formats of ggml have in common: their factors are float16, and a file holds their bytes.

Facts of the layouts: ``ggml-common.h``, ``ggml-quants.c`` and ``gguf-py`` of llama.cpp, which
computes the values in float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from awqc.numerics.formats.base import Tensors, WeightFormat

SMALLEST, LARGEST = 2.0**-24, 65280.0
"""Factors that float16 holds, and the largest of them that bfloat16 holds as well."""


def in_half(value: Tensor, dtype: torch.dtype) -> Tensor:
    """The nearest factors to ``value`` that float16 and ``dtype`` both hold, zero left out."""
    size = value.abs().clamp(SMALLEST, LARGEST).to(torch.float16).to(dtype).float()
    return torch.where(value < 0, -size, size)


def one_more(low: Tensor, high: Tensor, midpoint: int) -> Tensor:
    """Scales, with a sign, by which ``-midpoint`` reaches the farther of two ends."""
    low, high = low.float().clamp(max=0.0), high.float().clamp(min=0.0)
    return torch.where(high > -low, -high, -low) / midpoint


class GgmlFormat(WeightFormat):
    """Blocks of a GGUF file.

    Factors are kept in the dtype that the model computes in, with values that float16 holds.

    Attributes:
        block: columns that have a scale of their own.
        unit: columns that are stored together: a row is a multiple of it.
        order: of the roles in a unit of a file.
        signed: roles of whole numbers with a sign.
        bits: width of a code.
        second: name of the format for columns that `unit` does not divide, as llama.cpp has it;
            empty: there is none.
    """

    block: ClassVar[int]
    unit: ClassVar[int]
    order: ClassVar[tuple[str, ...]]
    signed: ClassVar[tuple[str, ...]] = ()
    bits: ClassVar[int]
    second: ClassVar[str] = ""

    def __str__(self) -> str:
        return self.name

    @property
    def levels(self) -> int:
        """As `WeightFormat.levels`."""
        return int(2**self.bits)

    @property
    def code_roles(self) -> tuple[str, ...]:
        """As `WeightFormat.code_roles`."""
        return tuple(role for role in ("packed", "high") if role in self.roles)

    @property
    def midpoint(self) -> int:
        """The code that stands for zero, where there is no minimum."""
        return self.levels // 2

    def describe(self) -> dict[str, Any]:
        """As `WeightFormat.describe`."""
        return {"bits": self.bits, "group_size": self.block, "format": self.name}

    def why_not(self, columns: int) -> str | None:
        """As `WeightFormat.why_not`."""
        if columns and columns % self.unit == 0:
            return None
        what = "super-blocks" if self.unit > self.block else "blocks"
        return (
            f"{self.name} has {what} of {self.unit}, and {columns} columns are no multiple of that"
        )

    def width(self, columns: int) -> int:
        """As `WeightFormat.width`."""
        return self.block

    def nbytes(self, rows: int, columns: int, dtype: torch.dtype) -> int:
        """As in a GGUF file, where factors take two bytes."""
        stored = self.layout(1, self.unit)
        whole = sum(stored[role][1] for role in self.roles if role not in self.tunable)
        factors = sum(stored[role][1] for role in self.tunable)
        return rows * (columns // self.unit) * (whole + factors * dtype.itemsize)

    def stored(self, value: Tensor, dtype: torch.dtype) -> Tensor:
        """What float16 and ``dtype`` both hold: bfloat16 has fewer digits, so it comes last."""
        return in_half(value, dtype)

    def fault(self, tensors: Mapping[str, Tensor]) -> str | None:
        """As `WeightFormat.fault`."""
        for role in self.tunable:
            factor = tensors[role]
            sound = bool(torch.isfinite(factor).all())
            if not sound or (self.positive(role) and bool((factor <= 0).any())):
                return f"a factor {role} that is not positive"
        return None

    def positive(self, role: str) -> bool:
        """Whether the factor ``role`` must be."""
        return True

    def blocks(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """The bytes of a GGUF file, row by row: uint8 ``(rows, columns / unit * bytes a unit)``."""
        rows, units = tensors[self.tunable[0]].shape
        parts = []
        for role in self.order:
            part = tensors[role].to(torch.float16) if role in self.tunable else tensors[role]
            parts.append(part.contiguous().view(torch.uint8).reshape(rows, units, -1))
        return torch.cat(parts, dim=-1).flatten(1)

    def of_blocks(self, blocks: Tensor, columns: int) -> Tensors:
        """Undo `blocks`: factors come in float32."""
        unit = {role: shape[1] for role, shape in self.layout(1, self.unit).items()}
        sizes = [unit[role] * (2 if role in self.tunable else 1) for role in self.order]
        parts = blocks.reshape(len(blocks), columns // self.unit, -1).split(sizes, dim=-1)
        found = {}
        for role, part in zip(self.order, parts, strict=True):
            whole = part.contiguous()
            if role in self.tunable:
                whole = whole.view(torch.float16).float()
            elif role in self.signed:
                whole = whole.view(torch.int8)
            found[role] = whole.flatten(1)
        return found
