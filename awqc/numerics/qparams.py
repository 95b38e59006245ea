"""The numerics of weight quantization: granularity, rounding, packing. Nothing else does this.

A weight is seen as a matrix ``(rows, columns)``: rows are output channels, columns are
what is summed over. Columns are cut into groups of ``group_size``; the last group may
be shorter (ragged). Each row has one ``scale`` and one ``zero_point`` a group::

    dequantized = (code - zero_point) * scale        code: uint in [0, 2**bits - 1]

Codes are always unsigned; a symmetric weight is one whose zero_point is everywhere the
midpoint ``2**(bits - 1)`` (``zero_point`` is then None). This is the affine scheme of
ONNX DequantizeLinear (opset 21) with block_size = group_size.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from awqc.errors import UsageError

Bits = Literal[2, 3, 4, 8]
BITS: tuple[Bits, ...] = (2, 3, 4, 8)
AUTO_GROUPS = (128, 64, 32)
CHUNK = 2**19
"""Elements that are rounded at once: large temporaries cost memory and gain nothing."""


@dataclass(frozen=True)
class Granularity:
    """How finely a weight is quantized.

    Attributes:
        bits: width of a code; 3-bit codes are stored in 4 bits.
        group_size: columns that share a scale; -1 means all columns of a row.
        symmetric: whether the zero point is fixed at the midpoint.
    """

    bits: Bits
    group_size: int
    symmetric: bool = False

    def with_bits(self, bits: int) -> Granularity:
        """The same at another width."""
        return replace(self, bits=bits)  # type: ignore[arg-type]  # the caller gives one of BITS

    @property
    def quant_max(self) -> int:
        """Largest code; the smallest is 0."""
        return int(2**self.bits) - 1

    @property
    def midpoint(self) -> int:
        """The zero point of a symmetric weight."""
        return int(2 ** (self.bits - 1))

    @property
    def storage_bits(self) -> int:
        """Bits that one code takes when packed: a power of two."""
        return 4 if self.bits == 3 else self.bits

    def groups(self, columns: int) -> int:
        """Number of groups in a row of ``columns`` weights, the ragged one included."""
        return 1 if self.group_size == -1 else -(-columns // self.group_size)

    def width(self, columns: int) -> int:
        """Columns that one full group spans."""
        return columns if self.group_size == -1 else self.group_size


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


@dataclass(frozen=True)
class QuantizedWeight:
    """A quantized weight matrix.

    Attributes:
        packed: uint8 ``(rows, ceil(columns * storage_bits / 8))``, see `pack`.
        columns: of the matrix.
        scale: float ``(rows, groups)``, in the dtype that the model computes in.
        zero_point: uint8 ``(rows, groups)``, or None when symmetric.
        granularity: bits, group size and symmetry.
        shape: shape of the original weight; ``rows * columns`` elements.
    """

    packed: Tensor
    columns: int
    scale: Tensor
    zero_point: Tensor | None
    granularity: Granularity
    shape: tuple[int, ...]

    @property
    def codes(self) -> Tensor:
        """uint8 ``(rows, columns)``, one code a byte, in ``[0, quant_max]``."""
        return unpack(self.packed, self.granularity.storage_bits, self.columns)

    def dequantize(self) -> Tensor:
        """The weight that this stands for, in ``shape``, in the dtype of ``scale``."""
        matrix = dequantize_codes(self.codes, self.scale, self.zero_point, self.granularity)
        return matrix.reshape(self.shape)

    def rows(self, start: int, stop: int) -> Tensor:
        """Some rows of the matrix that this stands for: ``(stop - start, columns)``."""
        chosen = slice(start, stop)
        codes = unpack(self.packed[chosen], self.granularity.storage_bits, self.columns)
        zero_point = None if self.zero_point is None else self.zero_point[chosen]
        return dequantize_codes(codes, self.scale[chosen], zero_point, self.granularity)

    @property
    def nbytes(self) -> int:
        """Bytes of the packed codes, scales and (packed) zero points."""
        per_byte = 8 // self.granularity.storage_bits
        codes = self.packed.numel()
        scales = self.scale.numel() * self.scale.element_size()
        zeros = 0 if self.zero_point is None else -(-self.zero_point.numel() // per_byte)
        return codes + scales + zeros


def quantized_bytes(
    rows: int, columns: int, granularity: Granularity, scale_dtype: torch.dtype
) -> int:
    """Bytes of the codes, scales and zero points of a matrix, packed as they are stored."""
    groups = rows * granularity.groups(columns)
    codes = rows * -(-columns * granularity.storage_bits // 8)
    zeros = 0 if granularity.symmetric else -(-groups * granularity.storage_bits // 8)
    return codes + groups * scale_dtype.itemsize + zeros


def to_groups(matrix: Tensor, granularity: Granularity) -> Tensor:
    """View ``(..., rows, columns)`` as ``(..., rows, groups, width)``; a ragged end repeats.

    The padding repeats the last column, so that minima and maxima of a group stay what
    they are.
    """
    columns = matrix.shape[-1]
    width, groups = granularity.width(columns), granularity.groups(columns)
    missing = groups * width - columns
    if missing:
        tail = matrix[..., -1:].expand(*matrix.shape[:-1], missing)
        matrix = torch.cat([matrix, tail], dim=-1)
    return matrix.reshape(*matrix.shape[:-1], groups, width)


def from_groups(grouped: Tensor, columns: int) -> Tensor:
    """Undo `to_groups`, dropping the padding: ``(..., rows, columns)``."""
    return grouped.flatten(-2)[..., :columns]


def choose_qparams(
    low: Tensor, high: Tensor, granularity: Granularity, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Scale and zero point for groups whose weights span ``[low, high]``.

    The span is widened to hold zero, so that zero is exact. The scale is rounded to
    ``dtype`` first and everything else follows from the rounded value; it is kept at or
    above the dtype's smallest normal number (no denormal scales, no division by zero) and
    at or below its largest.

    Returns:
        scale: in float32, representable in ``dtype``, the shape of ``low``.
        zero_point: float32 holding integers in ``[0, quant_max]``.
    """
    info = torch.finfo(dtype)
    low = low.float().clamp(max=0.0)
    high = high.float().clamp(min=0.0)
    if granularity.symmetric:
        # Codes reach from -midpoint to midpoint - 1: the negative end holds one step more.
        scale = torch.maximum(-low / granularity.midpoint, high / (granularity.midpoint - 1))
    else:
        # Divide first: high - low overflows where both ends are near the float32 limit.
        scale = high / granularity.quant_max - low / granularity.quant_max
    scale = scale.clamp(min=info.tiny, max=info.max).to(dtype).float()
    if granularity.symmetric:
        zero_point = torch.full_like(scale, float(granularity.midpoint))
    else:
        zero_point = torch.round(-low / scale).clamp(0, granularity.quant_max)
    reach = torch.maximum(zero_point, granularity.quant_max - zero_point)
    # What the farthest code stands for must still be finite in dtype.
    return torch.minimum(scale, _floor(info.max / reach, dtype)), zero_point


def _floor(value: Tensor, dtype: torch.dtype) -> Tensor:
    """``value`` rounded toward zero in ``dtype``, as float32."""
    rounded = value.to(dtype)
    lower = torch.nextafter(rounded, torch.zeros_like(rounded))
    return torch.where(rounded.float() > value, lower, rounded).float()


def round_to_grid(
    grouped: Tensor, scale: Tensor, zero_point: Tensor, granularity: Granularity
) -> Tensor:
    """Nearest codes, as float32, of ``grouped`` ``(..., groups, width)``."""
    codes = torch.round(grouped.float() / scale.unsqueeze(-1)) + zero_point.unsqueeze(-1)
    return codes.clamp_(0, granularity.quant_max)


def fake_quantize(matrix: Tensor, granularity: Granularity, dtype: torch.dtype) -> Tensor:
    """Quantize to nearest and back: float32 ``(..., rows, columns)``.

    This is what `quantize` followed by dequantizing gives, without making codes.
    """
    grouped = to_groups(matrix.float(), granularity)
    low, high = torch.aminmax(grouped, dim=-1)
    scale, zero_point = choose_qparams(low, high, granularity, dtype)
    # clamp(round(w / s) + z, 0, max) - z, without adding z and taking it away again.
    steps = (grouped / scale.unsqueeze(-1)).round_()
    below, above = -zero_point.unsqueeze(-1), (granularity.quant_max - zero_point).unsqueeze(-1)
    torch.maximum(steps, below, out=steps)
    torch.minimum(steps, above, out=steps)
    return from_groups(steps.mul_(scale.unsqueeze(-1)), matrix.shape[-1])


def quantize(
    weight: Tensor, rows: int, granularity: Granularity, scale_dtype: torch.dtype | None = None
) -> QuantizedWeight:
    """Quantize ``weight``, seen as ``(rows, everything else)``, to the nearest code.

    Scales have the weight's dtype, and values that ``scale_dtype`` can represent exactly.
    Large weights are worked on some rows at a time.
    """
    matrix = weight.detach().reshape(rows, -1)
    dtype = scale_dtype or weight.dtype
    parts = [_nearest(part, granularity, dtype) for part in matrix.split(rows_at_once(matrix))]
    codes, scale, zero_point = (torch.cat(column) for column in zip(*parts, strict=True))
    return quantized_weight(weight, codes, scale, zero_point, granularity)


def rows_at_once(matrix: Tensor) -> int:
    """How many rows of ``matrix`` ``(..., rows, columns)`` to work on at a time."""
    return max(1, CHUNK // max(matrix.shape[-1], 1))


def _nearest(
    matrix: Tensor, granularity: Granularity, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Codes in uint8, scale and zero point in float32."""
    grouped = to_groups(matrix.float(), granularity)
    low, high = torch.aminmax(grouped, dim=-1)
    scale, zero_point = choose_qparams(low, high, granularity, dtype)
    codes = round_to_grid(grouped, scale, zero_point, granularity).to(torch.uint8)
    return from_groups(codes, matrix.shape[1]), scale, zero_point


def quantized_weight(
    weight: Tensor, codes: Tensor, scale: Tensor, zero_point: Tensor, granularity: Granularity
) -> QuantizedWeight:
    """``codes`` ``(rows, columns)`` with scale and zero point ``(rows, groups)``, for ``weight``.

    All three hold their values in any dtype; the result has those that are stored.
    """
    return QuantizedWeight(
        packed=pack(codes.to(torch.uint8), granularity.storage_bits).contiguous(),
        columns=codes.shape[1],
        scale=scale.to(weight.dtype),
        zero_point=None if granularity.symmetric else zero_point.to(torch.uint8),
        granularity=granularity,
        shape=tuple(weight.shape),
    )


def dequantize_codes(
    codes: Tensor, scale: Tensor, zero_point: Tensor | None, granularity: Granularity
) -> Tensor:
    """``(code - zero_point) * scale`` for codes ``(rows, columns)``, in the dtype of ``scale``."""
    columns = codes.shape[-1]
    grouped = to_groups(codes, granularity).to(scale.dtype)
    zero = granularity.midpoint if zero_point is None else zero_point.to(scale.dtype).unsqueeze(-1)
    return from_groups((grouped - zero) * scale.unsqueeze(-1), columns)


def pack(codes: Tensor, storage_bits: int) -> Tensor:
    """Pack codes ``(rows, columns)`` into uint8 ``(rows, ceil(columns * bits / 8))``.

    The first code sits in the lowest bits (the order of ONNX INT4 tensors and of
    onnxruntime's MatMulNBits); a row starts on a byte, its last byte is filled with zeros.
    """
    per_byte = 8 // storage_bits
    if per_byte == 1:
        return codes.to(torch.uint8)
    rows, columns = codes.shape
    missing = -columns % per_byte
    padded = torch.nn.functional.pad(codes.to(torch.uint8), (0, missing))
    lanes = padded.reshape(rows, -1, per_byte)
    packed = lanes[..., 0].clone()
    for lane in range(1, per_byte):
        packed |= lanes[..., lane] << (lane * storage_bits)
    return packed


def unpack(packed: Tensor, storage_bits: int, columns: int) -> Tensor:
    """Undo `pack`: uint8 ``(rows, columns)``."""
    per_byte = 8 // storage_bits
    if per_byte == 1:
        return packed
    mask = 2**storage_bits - 1
    lanes = [(packed >> (lane * storage_bits)) & mask for lane in range(per_byte)]
    return torch.stack(lanes, dim=-1).flatten(-2)[..., :columns]


def dequantize_packed(
    packed: Tensor,
    scale: Tensor,
    zero_point: Tensor | None,
    shape: list[int],
    bits: Bits,
    group_size: int,
) -> Tensor:
    """The weight in ``shape`` that packed codes stand for, in the dtype of ``scale``.

    This is the operation that a quantized `GraphModule` calls: made of plain torch
    operations, so that `torch.export` traces through it and a saved archive needs no awqc.

    Args:
        packed: uint8 ``(rows, ceil(columns * storage_bits / 8))``, see `pack`.
        scale: float ``(rows, groups)``.
        zero_point: uint8 ``(rows, groups)``, or None for the midpoint.
        shape: shape of the weight; its elements in order are the matrix ``(rows, columns)``.
        bits: width of a code.
        group_size: columns a group, or -1.
    """
    granularity = Granularity(bits, group_size)
    elements = 1
    for size in shape:
        elements *= size
    codes = unpack(packed, granularity.storage_bits, elements // packed.shape[0])
    return dequantize_codes(codes, scale, zero_point, granularity).reshape(shape)
