"""Whole numbers of a few bits, with a scale and a zero point a group.

Each row has one ``scale`` and one ``zero_point`` a group of ``group_size`` columns; the last
group may be shorter (ragged)::

    dequantized = (code - zero_point) * scale        code: uint in [0, 2**bits - 1]

Codes are always unsigned; a symmetric weight is one whose zero_point is everywhere the
midpoint ``2**(bits - 1)`` (``zero_point`` is then missing). This is the affine scheme of
ONNX DequantizeLinear (opset 21) with block_size = group_size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from awqc.errors import UsageError
from awqc.numerics.formats.base import (
    QuantizedWeight,
    Tensors,
    WeightFormat,
    from_groups,
    to_groups,
)
from awqc.numerics.formats.lazy import lazily
from awqc.numerics.grid import Grid
from awqc.numerics.packing import pack, unpack

Bits = Literal[2, 3, 4, 8]
BITS: tuple[Bits, ...] = (2, 3, 4, 8)
AUTO_GROUPS = (128, 64, 32)
FINE = 8
"""Bits from which on rounding to nearest leaves next to nothing to gain."""


def _dequantize_eagerly(
    packed: Tensor,
    scale: Tensor,
    zero_point: Tensor | None,
    shape: list[int],
    bits: Bits,
    group_size: int,
) -> Tensor | None:
    """As `dequantize_packed`, in place; None for rows that end within a byte or a group."""
    form = IntGrid(bits, group_size)
    rows, columns = len(packed), math.prod(shape) // max(1, len(packed))
    lanes = 8 // form.storage_bits
    if columns == 0 or columns % lanes or columns % form.width(columns):
        return None
    values = scale.new_empty(rows, columns)
    places = values.view(rows, -1, lanes)
    for lane in range(lanes):
        places[..., lane] = (packed >> (lane * form.storage_bits)) & (2**form.storage_bits - 1)
    grouped = values.view(rows, -1, form.width(columns))
    zero = form.midpoint if zero_point is None else zero_point.to(scale.dtype).unsqueeze(-1)
    grouped.sub_(zero).mul_(scale.unsqueeze(-1))
    return values.view(shape)


@lazily(_dequantize_eagerly)
def dequantize_packed(
    packed: Tensor,
    scale: Tensor,
    zero_point: Tensor | None,
    shape: list[int],
    bits: Bits,
    group_size: int,
) -> Tensor:
    """The weight in ``shape`` that packed codes stand for, in the dtype of ``scale``.

    Args:
        packed: uint8 ``(rows, ceil(columns * storage_bits / 8))``, see `pack`.
        scale: float ``(rows, groups)``.
        zero_point: uint8 ``(rows, groups)``, or None for the midpoint.
        shape: shape of the weight; its elements in order are the matrix ``(rows, columns)``.
        bits: width of a code.
        group_size: columns a group, or -1.
    """
    form = IntGrid(bits, group_size)
    elements = 1
    for size in shape:
        elements *= size
    columns = elements // packed.shape[0]
    codes = unpack(packed, form.storage_bits, columns)
    grouped = to_groups(codes, form).to(scale.dtype)
    zero = form.midpoint if zero_point is None else zero_point.to(scale.dtype).unsqueeze(-1)
    return from_groups((grouped - zero) * scale.unsqueeze(-1), columns).reshape(shape)


@dataclass(frozen=True)
class IntGrid(WeightFormat):
    """Codes of ``bits``, with a scale, and a zero point unless symmetric, a group.

    Attributes:
        bits: width of a code; 3-bit codes are stored in 4 bits.
        group_size: columns that share a scale; -1 means all columns of a row.
        symmetric: whether the zero point is fixed at the midpoint.
    """

    bits: Bits
    group_size: int
    symmetric: bool = False

    roles: ClassVar[tuple[str, ...]] = ("packed", "scale", "zero_point")
    tunable: ClassVar[tuple[str, ...]] = ("scale",)
    operation = staticmethod(dequantize_packed)

    def __str__(self) -> str:
        return f"{self.bits} bits, group {self.group_size}"

    @property
    def levels(self) -> int:
        """As `WeightFormat.levels`."""
        return int(2**self.bits)

    @property
    def quant_max(self) -> int:
        """Largest code; the smallest is 0."""
        return self.levels - 1

    @property
    def midpoint(self) -> int:
        """The zero point of a symmetric weight."""
        return int(2 ** (self.bits - 1))

    def lift(self, bits: int) -> int:
        """How far codes of ``bits`` lie above these, where both are symmetric."""
        return int(2 ** (bits - 1)) - self.midpoint

    @property
    def storage_bits(self) -> int:
        """Bits that one code takes when packed: a power of two."""
        return 4 if self.bits == 3 else self.bits

    @property
    def two_ended(self) -> bool:
        """As `WeightFormat.two_ended`."""
        return not self.symmetric

    @property
    def fine(self) -> bool:
        """As `WeightFormat.fine`."""
        return self.bits >= FINE

    @property
    def bytewise(self) -> bool:
        """Whether a code is a signed byte, so that ``code * scale`` is the weight."""
        return self.bits == 8 and self.symmetric

    @property
    def constants(self) -> tuple[Any, ...]:
        """As `dequantize_packed` takes them."""
        return self.bits, self.group_size

    @classmethod
    def of_call(cls, present: frozenset[str], *constants: Any) -> IntGrid:
        """Symmetric where there are no zero points."""
        bits, group_size = constants
        return cls(bits, group_size, "zero_point" not in present)

    def with_bits(self, bits: int) -> IntGrid:
        """The same at another width."""
        return replace(self, bits=bits)  # type: ignore[arg-type]  # checked by the request

    def describe(self) -> dict[str, Any]:
        """As `WeightFormat.describe`."""
        return {"bits": self.bits, "group_size": self.group_size, "format": "int"}

    def width(self, columns: int) -> int:
        """As `WeightFormat.width`."""
        return columns if self.group_size == -1 else self.group_size

    def layout(self, rows: int, columns: int) -> dict[str, tuple[int, ...]]:
        """As `WeightFormat.layout`."""
        groups = (rows, self.groups(columns))
        packed = (rows, -(-columns * self.storage_bits // 8))
        shapes: dict[str, tuple[int, ...]] = {"packed": packed, "scale": groups}
        return shapes if self.symmetric else {**shapes, "zero_point": groups}

    def nbytes(self, rows: int, columns: int, dtype: torch.dtype) -> int:
        """Codes, scales and zero points, these packed as they are in ONNX."""
        groups = rows * self.groups(columns)
        codes = rows * -(-columns * self.storage_bits // 8)
        zeros = 0 if self.symmetric else -(-groups * self.storage_bits // 8)
        return codes + groups * dtype.itemsize + zeros

    def grid(self, low: Tensor, high: Tensor, dtype: torch.dtype) -> Grid:
        """Steps from ``-zero_point``; the span is widened to hold zero, so that zero is exact.

        The scale is rounded to ``dtype`` first and everything else follows from the rounded
        value; it is kept at or above the dtype's smallest normal number (no denormal scales, no
        division by zero) and at or below its largest.
        """
        info = torch.finfo(dtype)
        low = low.float().clamp(max=0.0)
        high = high.float().clamp(min=0.0)
        if self.symmetric:
            # Codes reach from -midpoint to midpoint - 1: the negative end holds one step more.
            scale = torch.maximum(-low / self.midpoint, high / (self.midpoint - 1))
        else:
            # Divide first: high - low overflows where both ends are near the float32 limit.
            scale = high / self.quant_max - low / self.quant_max
        scale = scale.clamp(min=info.tiny, max=info.max).to(dtype).float()
        if self.symmetric:
            zero_point = torch.full_like(scale, float(self.midpoint))
        else:
            zero_point = torch.round(-low / scale).clamp(0, self.quant_max)
        above = self.quant_max - zero_point
        # What the farthest code stands for must still be finite in dtype.
        scale = torch.minimum(scale, _floor(info.max / torch.maximum(zero_point, above), dtype))
        return Grid(scale, -zero_point, above, None, dtype)

    def encode(self, steps: Tensor, grid: Grid) -> Tensors:
        """As `WeightFormat.encode`."""
        columns = steps.shape[1]
        grouped = to_groups(steps, self) - grid.low.unsqueeze(-1)
        codes = from_groups(grouped, columns).to(torch.uint8)
        tensors = {"packed": pack(codes, self.storage_bits).contiguous(), "scale": grid.scale}
        return tensors if self.symmetric else {**tensors, "zero_point": (-grid.low).to(torch.uint8)}

    def codes(self, tensors: Mapping[str, Tensor], columns: int) -> Tensor:
        """In ``[0, quant_max]``."""
        return unpack(tensors["packed"], self.storage_bits, columns)

    def fault(self, tensors: Mapping[str, Tensor]) -> str | None:
        """As `WeightFormat.fault`."""
        scale = tensors["scale"]
        sound = bool(torch.isfinite(scale).all()) and bool((scale > 0).all())
        return None if sound else "a scale that is not positive"


def zero_points(weight: QuantizedWeight) -> Tensor:
    """Of every group, uint8 ``(rows, groups)``: the midpoint where none are stored."""
    assert isinstance(weight.format, IntGrid)
    held = weight.tensors.get("zero_point")
    scale = weight.tensors["scale"]
    if held is not None:
        return held
    return torch.full(scale.shape, weight.format.midpoint, dtype=torch.uint8)


def weight_of_bytes(
    form: IntGrid, codes: Tensor, scale: Tensor, zero_point: Tensor | None, shape: tuple[int, ...]
) -> QuantizedWeight:
    """A weight of ``codes`` ``(rows, columns)``, one a byte, with what a group has."""
    tensors = {"packed": pack(codes.to(torch.uint8), form.storage_bits).contiguous()}
    tensors["scale"] = scale
    if zero_point is not None and not form.symmetric:
        tensors["zero_point"] = zero_point.to(torch.uint8)
    return QuantizedWeight(form, tensors, shape)


def _floor(value: Tensor, dtype: torch.dtype) -> Tensor:
    """``value`` rounded toward zero in ``dtype``, as float32."""
    rounded = value.to(dtype)
    lower = torch.nextafter(rounded, torch.zeros_like(rounded))
    return torch.where(rounded.float() > value, lower, rounded).float()


def resolve_group_size(group_size: int | str, columns: int) -> int:
    """Turn a requested group size into the one that a weight with ``columns`` gets.

    ``"auto"`` is the largest of 128, 64, 32 that divides ``columns``; if none does, 32 with
    a ragged last group, or one group where ``columns`` has no more than 32.

    Raises:
        UsageError: the request is neither ``auto``, ``-1`` nor a positive number.
    """
    if group_size == "auto":
        dividing = [size for size in AUTO_GROUPS if columns % size == 0]
        if dividing:
            return dividing[0]
        return AUTO_GROUPS[-1] if columns > AUTO_GROUPS[-1] else -1
    if isinstance(group_size, str) or (group_size != -1 and group_size < 1):
        raise UsageError(
            f"group size {group_size!r} is not usable: give a positive number, "
            "-1 (one scale for each output channel) or auto"
        )
    return -1 if group_size >= columns else int(group_size)
