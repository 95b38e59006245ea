"""Attention in plain tensor operations, with the exact meaning of torch's."""

from __future__ import annotations

import math

import torch
from torch import Tensor


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
    if enable_gqa:
        key, value = (_repeat_heads(t, query.shape[-3]) for t in (key, value))
    if is_causal:
        rows = torch.arange(query.shape[-2], device=query.device).unsqueeze(-1)
        attn_mask = torch.arange(key.shape[-2], device=query.device).unsqueeze(0) <= rows
    factor = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = torch.matmul(query * factor, key.transpose(-2, -1))
    if attn_mask is None:
        return torch.matmul(torch.softmax(scores, -1), value)
    bias, sees = attn_mask, attn_mask
    if attn_mask.dtype is torch.bool:
        bias = torch.where(attn_mask, 0.0, -torch.inf).to(query.dtype)
    else:
        sees = attn_mask > -torch.inf
    result = torch.matmul(torch.softmax(scores + bias, -1), value)
    if is_causal:
        return result
    return torch.where(sees.any(-1, keepdim=True), result, 0.0)


def _repeat_heads(tensor: Tensor, heads: int) -> Tensor:
    """``(..., key_heads, keys, width)`` as ``(..., heads, keys, width)``, each head repeated."""
    *batch, own, length, width = tensor.shape
    if own == heads:
        return tensor
    spread = tensor.unsqueeze(-3).expand(*batch, own, heads // own, length, width)
    return spread.reshape(*batch, heads, length, width)
