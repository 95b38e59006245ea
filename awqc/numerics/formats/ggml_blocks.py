"""Quantized weights as the blocks of a GGUF file, and back."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from awqc.numerics.formats.base import QuantizedWeight, WeightFormat
from awqc.numerics.formats.ggml import GgmlFormat
from awqc.numerics.formats.int_grid import IntGrid, weight_of_bytes
from awqc.numerics.formats.lanes import pack_lanes, unpack_lanes

BLOCK = 32
WHOLE = {4: "Q4_0", 8: "Q8_0"}
"""Types of whole numbers with a scale a block, by bits."""


def why_not_gguf(form: WeightFormat) -> str | None:
    """Why GGUF has no type for weights in ``form``, or None if it has."""
    if isinstance(form, GgmlFormat):
        return None
    if not isinstance(form, IntGrid) or not form.symmetric or form.bits not in WHOLE:
        return f"{form}, and gguf has whole numbers of 4 and 8 bits without zero points alone"
    if form.group_size % BLOCK and form.group_size != -1:
        return f"{form}, and gguf has blocks of {BLOCK}"
    return None


def why_not_ggml(weight: QuantizedWeight) -> str | None:
    """Why GGUF cannot hold ``weight``, or None if it can."""
    if (reason := why_not_gguf(weight.format)) is not None:
        return reason
    if len(weight.shape) != 2:
        return f"{len(weight.shape)} axes, and gguf has blocks of matrices"
    if isinstance(weight.format, IntGrid) and weight.columns % BLOCK:
        return f"{weight.columns} columns, and gguf has blocks of {BLOCK}"
    scales = [t for t in weight.tensors.values() if t.is_floating_point()]
    if any(not torch.equal(t.to(torch.float16).to(t.dtype), t) for t in scales):
        return "a scale that float16 does not hold"
    return None


def ggml_type(form: WeightFormat) -> str:
    """The name of the type of ``form``, of which `why_not_gguf` says nothing."""
    return WHOLE[form.bits] if isinstance(form, IntGrid) else form.name


def to_blocks(weight: QuantizedWeight) -> Tensor:
    """The bytes of ``weight``, row by row: uint8 ``(rows, …)``."""
    form = weight.format
    if not isinstance(form, IntGrid):
        assert isinstance(form, GgmlFormat)
        return form.blocks(weight.tensors)
    codes, rows = weight.codes, weight.rows
    scale = weight.tensors["scale"].to(torch.float16)
    d = scale.repeat_interleave(form.width(weight.columns) // BLOCK, dim=1).unsqueeze(-1)
    if form.bits == 8:
        packed = (codes.to(torch.int16) - form.midpoint).to(torch.int8).view(torch.uint8)
    else:
        packed = pack_lanes(codes, 2, BLOCK // 2)
    parts = [d.contiguous().view(torch.uint8), packed.reshape(rows, d.shape[1], -1)]
    return torch.cat(parts, dim=-1).flatten(1)


def block_bytes(form: WeightFormat, shape: Sequence[int]) -> tuple[int, int] | None:
    """Rows, and bytes of each, of a matrix of ``shape`` in ``form``; None: GGUF has no such."""
    if why_not_gguf(form) is not None:
        return None
    rows, columns = shape
    if isinstance(form, IntGrid):
        return rows, columns // BLOCK * (2 + BLOCK * form.bits // 8)
    return rows, form.nbytes(1, columns, torch.float16)


def weight_of_blocks(form: WeightFormat, blocks: Tensor, shape: tuple[int, ...]) -> QuantizedWeight:
    """Undo `to_blocks`; scales come in float32."""
    rows, columns = shape
    if isinstance(form, GgmlFormat):
        return QuantizedWeight(form, form.of_blocks(blocks, columns), shape)
    assert isinstance(form, IntGrid)
    scale, packed = blocks.reshape(rows, columns // BLOCK, -1).split(
        [2, BLOCK * form.bits // 8], -1
    )
    packed = packed.flatten(1)
    codes = unpack_lanes(packed, 2, BLOCK // 2)
    if form.bits == 8:
        codes = (packed.view(torch.int8).to(torch.int16) + form.midpoint).to(torch.uint8)
    every = form.width(columns) // BLOCK
    own = scale.contiguous().view(torch.float16).float().flatten(1)[:, ::every].contiguous()
    return weight_of_bytes(form, codes, own, None, shape)
