"""Attention in plain tensor operations, with the exact meaning of torch's."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

Reshape = Callable[[Tensor], Tensor]


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """``softmax(query key^T scale + mask) value``, as `scaled_dot_product_attention` has it.

    Shapes ``(..., heads, queries, width)`` and ``(..., key_heads, keys, width)``; a row that
    may look at no key at all gives zeros. Translators differ in ranks, masks and grouped
    heads that they take; these operations they all have.
    """
    if is_causal:
        last = torch.arange(query.shape[-2], device=query.device).unsqueeze(-1)
        attn_mask = torch.arange(key.shape[-2], device=query.device).unsqueeze(0) <= last
    factor = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    join, part = _sharing(query, key) if enable_gqa else (_same, _same)
    scores = part(torch.matmul(join(query) * factor, key.transpose(-2, -1)))
    if attn_mask is None:
        return part(torch.matmul(join(torch.softmax(scores, -1)), value))
    bias, sees = attn_mask, attn_mask
    if attn_mask.dtype is torch.bool:
        bias = torch.where(attn_mask, 0.0, -torch.inf).to(query.dtype)
    else:
        sees = attn_mask > -torch.inf
    result = part(torch.matmul(join(torch.softmax(scores + bias, -1)), value))
    if is_causal:
        return result
    return torch.where(sees.any(-1, keepdim=True), result, 0.0)


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _sharing(query: Tensor, key: Tensor) -> tuple[Reshape, Reshape]:
    """``(..., heads, rows, n)`` as ``(..., own, heads / own rows, n)``, and back.

    Heads of the query that share one of the key's become rows of one product: nothing is
    copied, which repeated keys would be.
    """
    heads, rows = query.shape[-3:-1]
    own = key.shape[-3]

    def join(tensor: Tensor) -> Tensor:
        return tensor.reshape(*tensor.shape[:-3], own, heads // own * rows, tensor.shape[-1])

    def part(tensor: Tensor) -> Tensor:
        return tensor.reshape(*tensor.shape[:-3], heads, rows, tensor.shape[-1])

    return (_same, _same) if own == heads else (join, part)
