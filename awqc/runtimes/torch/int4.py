"""4-bit weights in torch's own int4 kernel.

    before:  linear(x, dequantize(codes, scale, zero_point), b)
    after:   int4_linear(x, words, scales_and_zeros, group_size, b)

The kernel computes ``x (code - 8) * scale + zero`` with a float zero for each group, so that
``zero = (8 - zero_point) * scale``. It is fast in bfloat16 only: activations, scales and zeros
are rounded to it (a relative error of some 3e-3 in each product), whatever the model computes in.
"""

from __future__ import annotations

import torch
from torch import Tensor

from awqc.graph.linears import aten
from awqc.numerics.packing import unpack
from awqc.runtimes.torch.constant_weights import Parts

GROUP_SIZES = (32, 64, 128, 256)
ROWS = 16
ZERO = 8
"""The code that the kernel takes for zero."""


def int4_linear(
    x: Tensor, words: Tensor, scales_and_zeros: Tensor, group_size: int, bias: Tensor | None
) -> Tensor:
    """``x W^T + b`` by torch's int4 kernel on the CPU.

    Args:
        x: float ``(..., K)``.
        words: ``(N, K / 2)``, as ``aten._convert_weight_to_int4pack_for_cpu`` makes them.
        scales_and_zeros: bfloat16 ``(K / group_size, N, 2)``.
        group_size: columns a group.
        bias: ``(N,)`` or None.

    Returns:
        ``(..., N)`` in the dtype of ``x``.
    """
    rows = x.reshape(-1, x.shape[-1]).to(torch.bfloat16)
    product: Tensor = aten._weight_int4pack_mm_for_cpu(rows, words, group_size, scales_and_zeros)
    y = product.to(x.dtype).reshape(*x.shape[:-1], product.shape[-1])
    return y if bias is None else y + bias


def int4_weight(parts: Parts) -> tuple[Tensor, Tensor, int] | str:
    """Words, scales with zeros, and the group size, for the kernel; or why it has none."""
    if parts.bits() != 4 or parts.value.ndim != 2:
        return f"{parts.bits()} bits; the kernel takes 4"
    rows, columns = parts.value.shape
    groups = parts.scale.shape[1]
    if columns % groups or columns // groups not in GROUP_SIZES:
        sizes = ", ".join(map(str, GROUP_SIZES))
        return f"{columns} columns in {groups} groups; the kernel takes groups of {sizes}"
    if rows % ROWS:
        return f"{rows} output channels; the kernel takes multiples of {ROWS}"
    group_size = columns // groups
    codes = unpack(parts.packed, 4, columns)
    zero_point = parts.zero_of(codes, group_size)
    if zero_point is None:
        return "its codes do not give the weight that the graph computes"
    scale = parts.scale.float()
    zeros = (ZERO - zero_point.float()) * scale
    pairs = torch.stack([scale, zeros], dim=-1).transpose(0, 1)
    words = aten._convert_weight_to_int4pack_for_cpu(codes.to(torch.int32), 1)
    return words, pairs.to(torch.bfloat16).contiguous(), group_size
