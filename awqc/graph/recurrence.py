"""Linear attention as one operation of the graph: a state that each token decays and adds to.

A model computes it by a loop over tokens, or over chunks of tokens, which a graph of any length has
no form for.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

CHUNK, WIDE_CHUNK = 64, 16
"""Tokens that are read together, where a head decays as one and where each channel does."""


@torch.library.custom_op("awqc::linear_attention", mutates_args=())
def linear_attention(
    query: Tensor, key: Tensor, value: Tensor, decay: Tensor, beta: Tensor | None, state: Tensor
) -> tuple[Tensor, Tensor]:
    """Read tokens one after another, each behind the state that the one before it left.

    For each token ``t``, with ``S`` the state of a head::

        S = exp(decay_t) * S
        S = S + outer(key_t, value_t)                                     without beta
        S = S + beta_t * outer(key_t, value_t - S^T key_t)                with beta (delta rule)
        result_t = S^T query_t

    Args:
        query: ``(batch, tokens, heads, width)``, and ``key`` likewise.
        value: ``(batch, tokens, heads, size)``.
        decay: ``(batch, tokens, heads, width)`` or ``(batch, tokens, heads, 1)``.
        beta: ``(batch, tokens, heads)``, or None.
        state: ``(batch, heads, width, size)``, before the first token.

    Returns:
        The results ``(batch, tokens, heads, size)``, and the state behind the last token.

    Source: ONNX operator LinearAttention, opset 27; arXiv 2412.06464, equation 10.
    """
    return _in_chunks(query, key, value, decay, beta, state)


def _in_chunks(
    query: Tensor, key: Tensor, value: Tensor, decay: Tensor, beta: Tensor | None, state: Tensor
) -> tuple[Tensor, Tensor]:
    """The same, some tokens at a time, by products of matrices.

    With ``c`` the sum of decays up to a token, and ``u`` what each token adds, behind the state at
    the beginning of the chunk::

        u_t = beta_t (value_t - S^T (exp(c_t) key_t) - sum_{j<t} u_j <key_t, exp(c_t - c_j) key_j>)
        result_t = S^T (exp(c_t) query_t) + sum_{j<=t} u_j <query_t, exp(c_t - c_j) key_j>

    The first is a triangular system. No exponent is positive where no decay is.
    """
    length = CHUNK
    if decay.shape[-1] > 1:  # each two tokens then take a number for each channel
        length = WIDE_CHUNK if value.shape[-1] >= WIDE_CHUNK else 1
    chunks = range(0, key.shape[1], length)
    made = []
    for start in chunks:
        some = slice(start, start + length)
        q, k, u, sums = (
            each[:, some].transpose(1, 2) for each in (query, key, value, decay)
        )  # (batch, heads, tokens, …)
        sums = sums.double().cumsum(2)  # of large ones the differences matter
        before = torch.ones(k.shape[2], k.shape[2], dtype=torch.bool, device=k.device).tril()
        kept = sums.exp().to(k.dtype)
        if beta is not None:
            rate = beta[:, some].transpose(1, 2).unsqueeze(-1)
            known = rate * _meet(k, k, sums, before).tril(-1)
            u = torch.linalg.solve_triangular(
                known, rate * (u - (k * kept) @ state), upper=False, unitriangular=True
            )
        made.append(((q * kept) @ state + _meet(q, k, sums, before) @ u).transpose(1, 2))
        last = sums[:, :, -1:]
        left = (k * (last - sums).exp().to(k.dtype)).transpose(-1, -2) @ u
        state = kept[:, :, -1:].transpose(-1, -2) * state + left
    results = torch.cat(made, 1) if made else value.new_zeros(value.shape)
    return results, state.clone()


def _meet(rows: Tensor, keys: Tensor, sums: Tensor, before: Tensor) -> Tensor:
    """``<rows_t, exp(c_t - c_j) keys_j>`` where ``j`` is not behind ``t``, else zero."""
    gaps = (sums.unsqueeze(3) - sums.unsqueeze(2)).to(keys.dtype)
    kept = gaps.masked_fill(~before.unsqueeze(-1), -torch.inf).exp()
    if sums.shape[-1] == 1:
        return (rows @ keys.transpose(-1, -2)) * kept.squeeze(-1)
    return (rows.unsqueeze(3) * keys.unsqueeze(2) * kept).sum(-1)


@linear_attention.register_fake
def _(
    query: Tensor, key: Tensor, value: Tensor, decay: Tensor, beta: Tensor | None, state: Tensor
) -> tuple[Tensor, Tensor]:
    return value.new_empty(value.shape), state.new_empty(state.shape)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs)


def _derive(ctx: Any, *given: Tensor) -> tuple[Tensor | None, ...]:
    """The derivative of `_in_chunks`, which is run again."""
    with torch.enable_grad():
        inputs: list[Any] = [t if t is None else t.detach().requires_grad_()
                             for t in ctx.saved_tensors]  # fmt: skip
        made = _in_chunks(*inputs)
        wanted = [each for each in inputs if each is not None]
        found = iter(torch.autograd.grad(made, wanted, given, allow_unused=True))
    return tuple(None if each is None else next(found) for each in inputs)


linear_attention.register_autograd(_derive, setup_context=_keep)
OPERATION = torch.ops.awqc.linear_attention.default
