"""Loops over tokens that transformers' decoders run, as one operation of any length.

The loops stand in functions that have the arguments of a published kernel, whatever they are called
and whosever they are. What such a function computes is written here by `linear_attention`; that a
model computes the same with it is tried before it is used, see `awqc.huggingface.carried`.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from awqc.graph.recurrence import linear_attention
from awqc.recording.instead import method_instead

Arguments = Mapping[str, Any]
Form = Callable[[Arguments, Tensor | None], tuple[Tensor, Tensor]]
"""Of arguments, and of the state that the cache handed out last, the results and the state."""
NORM_EPS = 1e-6
"""What the delta rule's kernels add to the squared length of a query or key."""


def delta_rule(given: Arguments, handed: Tensor | None) -> tuple[Tensor, Tensor]:
    """A gated delta rule, with a decay for each head or for each of its channels.

    Source: flash-linear-attention, ``chunk_gated_delta_rule`` and ``chunk_kda``.
    """
    dtype, heads = given["query"].dtype, given["value"].shape[2]
    query, key, value, decay, beta = (
        given[name].float() for name in ("query", "key", "value", "g", "beta")
    )
    if given.get("use_qk_l2norm_in_kernel"):
        query, key = (
            each * torch.rsqrt((each * each).sum(-1, keepdim=True) + NORM_EPS)
            for each in (query, key)
        )
    query, key = (_for_heads(each, heads) for each in (query, key))
    decay = decay if decay.dim() == key.dim() else decay.unsqueeze(-1)
    state = given["initial_state"]
    if state is None:
        state = _zeros(value, key.shape[-1], value.shape[-1])
    made, left = linear_attention(
        query * query.shape[-1] ** -0.5, key, value, decay, beta, state.float()
    )
    return made.to(dtype), left


def chunk_scan(given: Arguments, handed: Tensor | None) -> tuple[Tensor, Tensor]:
    """A state space whose heads decay as one.

    Source: mamba_ssm, ``mamba_chunk_scan_combined``; arXiv 2405.21060.
    """
    hidden, step = given["hidden_states"].float(), _step(given, given["dt"], given["dt_bias"])
    step = step.clamp(*given["dt_limit"]).float()
    heads, state = hidden.shape[2], given["initial_states"]
    key, query = (_for_heads(given[name].float(), heads) for name in ("B", "C"))
    if state is None:
        state = _zeros(hidden, hidden.shape[-1], key.shape[-1])
    made, left = linear_attention(
        query,
        key,
        hidden * step.unsqueeze(-1),
        (given["A"].float() * step).unsqueeze(-1),
        None,
        state.float().transpose(-1, -2),
    )
    if given["D"] is not None:
        made = made + given["D"].unsqueeze(-1) * hidden
    return made, left.transpose(-1, -2)


def selective_scan(given: Arguments, handed: Tensor | None) -> tuple[Tensor, Tensor]:
    """A state space in which each channel is a head of one value.

    Source: mamba_ssm, ``selective_scan_fn``; arXiv 2312.00752. It is not told a state, so that
    transformers begins each text anew; here it goes on behind the one that the cache ``handed``
    out.
    """
    hidden = given["hidden_states"]
    bias = given["delta_bias"]
    step = _step(given, given["dt"], None if bias is None else bias.unsqueeze(-1)).transpose(1, 2)
    channels, source = hidden.shape[1], hidden.float().transpose(1, 2)
    key, query = (
        given[name].transpose(1, 2).float().unsqueeze(2).expand(-1, -1, channels, -1)
        for name in ("B", "C")
    )
    state = _zeros(source.unsqueeze(-1), key.shape[-1], 1)
    if handed is not None:
        state = handed.float().unsqueeze(-1)
    value = (source * step).unsqueeze(-1)
    decay = given["A"] * step.unsqueeze(-1)
    made, left = linear_attention(query, key, value, decay, None, state)
    result = made.squeeze(-1).transpose(1, 2)
    if given["D"] is not None:
        result = result + hidden * given["D"].unsqueeze(-1)
    if given["z"] is not None:
        result = result * functional.silu(given["z"])
    return result, left.squeeze(-1)


FORMS: dict[frozenset[str], Form] = {
    frozenset({"query", "key", "value", "g", "beta", "initial_state", "output_final_state"}):
        delta_rule,
    frozenset({"hidden_states", "dt", "A", "B", "C", "D", "dt_bias", "dt_softplus", "dt_limit",
               "initial_states", "return_final_states"}): chunk_scan,
    frozenset({"hidden_states", "dt", "A", "B", "C", "D", "z", "delta_bias", "delta_softplus",
               "return_last_state"}): selective_scan,
}  # fmt: skip
"""What a function computes that has such arguments."""


@contextmanager
def recurrences_instead(model: Any, handed: Callable[[], Tensor | None]) -> Iterator[None]:
    """Let the functions of ``model``'s files that fit a form compute it by one operation.

    ``handed`` gives the state that the cache handed out last.
    """
    with ExitStack() as stack:
        for file in {type(part).__module__ for part in model.modules()}:
            module = sys.modules.get(file)  # classes that were made by code may have none
            for name, function in list(vars(module).items() if module is not None else ()):
                form = kernel_form(function) if inspect.isfunction(function) else None
                if form is not None:
                    stack.enter_context(method_instead(module, name, _as(function, form, handed)))
        yield


def kernel_form(function: Any) -> Form | None:
    """What ``function`` computes, told by its arguments; None of a function that fits no form."""
    names = set(inspect.signature(function).parameters)
    return next((form for needed, form in FORMS.items() if needed <= names), None)


def _as(function: Any, form: Form, handed: Callable[[], Tensor | None]) -> Callable[..., Any]:
    signature = inspect.signature(function)

    def call(*args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        known = {
            name: value for name, value in kwargs.items()
            if name in signature.parameters or _takes_others(signature)
        }  # fmt: skip
        bound = signature.bind(*args, **known)
        bound.apply_defaults()
        return form(bound.arguments, handed())

    return call


def _takes_others(signature: inspect.Signature) -> bool:
    return any(each.kind is each.VAR_KEYWORD for each in signature.parameters.values())


def _step(given: Arguments, step: Tensor, bias: Tensor | None) -> Tensor:
    """How far the state goes on at each token."""
    if bias is not None:
        step = step + bias.to(step.dtype)
    softplus = given.get("dt_softplus", given.get("delta_softplus"))
    return functional.softplus(step) if softplus else step


def _for_heads(each: Tensor, heads: int) -> Tensor:
    """``each`` ``(batch, tokens, groups, width)`` for ``heads``, of which some share a group."""
    groups = each.shape[2]
    return each if groups == heads else each.repeat_interleave(heads // groups, dim=2)


def _zeros(like: Tensor, *sizes: int) -> Tensor:
    """A state ``(batch, heads, *sizes)`` before any token; ``like``: ``(batch, tokens, heads)``."""
    return like.new_zeros(like.shape[0], like.shape[2], *sizes, dtype=torch.float32)
