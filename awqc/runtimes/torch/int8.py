"""8-bit weights with one scale a row: products by torch's int8 kernel, rows looked up as codes.

    before:  linear(x, dequantize(codes, scale), b)      embedding(dequantize(codes, scale), ids)
    after:   int8_linear(x, codes, scale, b)             int8_rows(codes, scale, ids)

A table that is also the head keeps one set of codes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import statically_known_true

from awqc.graph.linears import aten
from awqc.runtimes.torch.constant_weights import Parts

ZERO = 128
"""The code that stands for zero where codes become signed."""
COLUMNS = 32
"""The kernel reads beyond rows that this does not divide, and may crash."""
FEW_ROWS = 32
"""Up to these the kernel is faster than a bfloat16 product with codes made bfloat16."""


def int8_linear(x: Tensor, codes: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    """``x W^T + b``, with ``x`` rounded to bfloat16: that is what is fast.

    Args:
        x: float ``(..., K)``.
        codes: int8 ``(N, K)``.
        scale: float ``(N,)``.
        bias: ``(N,)`` or None.

    Returns:
        ``(..., N)`` in the dtype of ``x``.
    """
    rows = x.reshape(-1, x.shape[-1]).to(torch.bfloat16)
    if statically_known_true(rows.shape[0] <= FEW_ROWS):
        product = aten._weight_int8pack_mm(rows, codes, scale.to(torch.bfloat16)).to(x.dtype)
    else:
        # Codes are exact in bfloat16.
        wide = torch.nn.functional.linear(rows, codes.to(torch.bfloat16))
        product = (wide.float() * scale.float()).to(x.dtype)
    y: Tensor = product.reshape(*x.shape[:-1], codes.shape[0])
    return y if bias is None else y + bias


def int8_rows(codes: Tensor, scale: Tensor, ids: Tensor) -> Tensor:
    """Rows ``ids`` of the weight, exactly: ``(*ids.shape, K)`` in the dtype of ``scale``."""
    return codes[ids].to(scale.dtype) * scale[ids].unsqueeze(-1)


def is_bytes(parts: Parts) -> bool:
    """Whether a code of the weight is a byte."""
    return parts.bits() == 8


def int8_weight(parts: Parts) -> tuple[Tensor, Tensor] | str:
    """Codes ``(N, K)`` and scale ``(N,)``, or why the weight has none."""
    if parts.bits() != 8 or parts.value.ndim != 2:
        return f"{parts.bits()} bits; the kernel takes 8"
    if parts.scale.shape[1] != 1:
        return f"8 bits with {parts.scale.shape[1]} groups a row; the kernel takes one"
    if parts.value.shape[1] % COLUMNS:
        return f"{parts.value.shape[1]} columns; the kernel takes multiples of {COLUMNS}"
    zero_point = parts.zero_of(parts.packed, -1)
    if zero_point is None or not bool((zero_point == ZERO).all()):
        return "8 bits with zero points; the kernel takes symmetric weights"
    return (parts.packed.to(torch.int16) - ZERO).to(torch.int8), parts.scale[:, 0]
