"""Linear attention as one operation of the graph: a state that each token decays and adds to.

A model computes it by a loop over tokens, or over chunks of tokens, which a graph of any length has
no form for.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


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
    return _in_turn(query, key, value, decay, beta, state)


def _in_turn(
    query: Tensor, key: Tensor, value: Tensor, decay: Tensor, beta: Tensor | None, state: Tensor
) -> tuple[Tensor, Tensor]:
    kept, made = decay.exp().unsqueeze(-1), []
    for token in range(key.shape[1]):
        state = state * kept[:, token]
        added = value[:, token].unsqueeze(-2)
        if beta is not None:
            known = key[:, token].unsqueeze(-2) @ state
            added = (added - known) * beta[:, token, :, None, None]
        state = state + key[:, token].unsqueeze(-1) * added
        made.append((query[:, token].unsqueeze(-2) @ state).squeeze(-2))
    results = torch.stack(made, 1) if made else value.new_zeros(value.shape)
    return results, state.clone()


@linear_attention.register_fake
def _(
    query: Tensor, key: Tensor, value: Tensor, decay: Tensor, beta: Tensor | None, state: Tensor
) -> tuple[Tensor, Tensor]:
    return value.new_empty(value.shape), state.new_empty(state.shape)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs)


def _derive(ctx: Any, *given: Tensor) -> tuple[Tensor | None, ...]:
    """The derivative, by the loop itself, run again."""
    with torch.enable_grad():
        inputs: list[Any] = [t if t is None else t.detach().requires_grad_()
                             for t in ctx.saved_tensors]  # fmt: skip
        made = _in_turn(*inputs)
        wanted = [each for each in inputs if each is not None]
        found = iter(torch.autograd.grad(made, wanted, given, allow_unused=True))
    return tuple(None if each is None else next(found) for each in inputs)


linear_attention.register_autograd(_derive, setup_context=_keep)
OPERATION = torch.ops.awqc.linear_attention.default
