"""Linear attention reads tokens in turn, has a derivative, and sizes that stay free."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from awqc.graph.recurrence import CHUNK, OPERATION, WIDE_CHUNK, linear_attention
from awqc.graph.trace_module import trace_module

HEADS, WIDTH, SIZE = 2, 3, 17
Operands = tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor]


def operands(
    batch: int,
    tokens: int,
    *,
    wide: bool,
    delta: bool,
    seed: int = 0,
    dtype: torch.dtype | None = None,
) -> Operands:
    """Numbers for the operation; ``wide``: a decay for each channel."""
    drawn = torch.Generator().manual_seed(seed)

    def made(*sizes: int) -> Tensor:
        return torch.randn(batch, *sizes, generator=drawn, dtype=dtype)

    decay = -made(tokens, HEADS, WIDTH if wide else 1).abs()
    beta = made(tokens, HEADS).sigmoid() if delta else None
    query = made(tokens, HEADS, WIDTH)
    key = nn.functional.normalize(made(tokens, HEADS, WIDTH), dim=-1)
    return query, key, made(tokens, HEADS, SIZE), decay, beta, made(HEADS, WIDTH, SIZE)


def as_defined(given: Operands) -> tuple[Tensor, Tensor]:
    """The definition, a number at a time."""
    query, key, value, decay, beta, state = given
    state, results = state.clone(), torch.zeros(value.shape)
    for row in range(len(key)):
        for head in range(HEADS):
            for token in range(key.shape[1]):
                here = row, token, head
                old = decay[here].exp()[:, None] * state[row, head]
                added = value[here]
                if beta is not None:
                    added = beta[here] * (added - old.T @ key[here])
                state[row, head] = old + torch.outer(key[here], added)
                results[here] = state[row, head].T @ query[here]
    return results, state


@settings(deadline=None)  # the first call registers the operation
@given(
    batch=st.integers(1, 3),
    tokens=st.integers(0, 21),
    wide=st.booleans(),
    delta=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_it_is_what_it_says(batch: int, tokens: int, wide: bool, delta: bool, seed: int) -> None:
    given_ = operands(batch, tokens, wide=wide, delta=delta, seed=seed)
    for found, wanted in zip(linear_attention(*given_), as_defined(given_), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("wide", [True, False])
def test_a_long_text_is_read_in_chunks(wide: bool) -> None:
    given_ = operands(1, 2 * (WIDE_CHUNK if wide else CHUNK) + 3, wide=wide, delta=True)
    for found, wanted in zip(linear_attention(*given_), as_defined(given_), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_states_that_are_forgotten_at_once_leave_numbers() -> None:
    """Decays below what float32 can hold, as Mamba's may be."""
    query, key, value, decay, beta, state = operands(1, 40, wide=True, delta=False)
    given_ = query, key, value, 100 * decay, beta, state
    for found, wanted in zip(linear_attention(*given_), as_defined(given_), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_tokens_may_be_read_in_parts() -> None:
    query, key, value, decay, beta, state = operands(2, 7, wide=True, delta=True)
    whole, left = linear_attention(query, key, value, decay, beta, state)
    assert beta is not None
    parts = []
    for some in (slice(0, 3), slice(3, 4), slice(4, 7)):
        made, state = linear_attention(
            query[:, some], key[:, some], value[:, some], decay[:, some], beta[:, some], state
        )
        parts.append(made)
    torch.testing.assert_close(torch.cat(parts, 1), whole)
    torch.testing.assert_close(state, left)


@pytest.mark.parametrize("delta", [True, False])
def test_it_has_a_derivative(delta: bool) -> None:
    given_ = operands(2, 3, wide=not delta, delta=delta, dtype=torch.float64)
    read: list[Any] = [None if each is None else each.requires_grad_() for each in given_]
    assert torch.autograd.gradcheck(linear_attention, read)


def test_a_graph_of_it_takes_any_number_of_tokens() -> None:
    class Reads(nn.Module):
        def forward(self, *given: Tensor) -> tuple[Tensor, Tensor]:
            made: tuple[Tensor, Tensor] = linear_attention(*given)
            return made

    free = torch.export.Dim.DYNAMIC
    shapes = ((*({0: free, 1: free} for _ in range(5)), {0: free}),)
    example = operands(2, 5, wide=True, delta=True)
    program = trace_module(Reads(), example, {}, shapes)
    assert [node.target for node in program.graph.nodes].count(OPERATION) == 1
    for tokens in (2, 9):
        given_ = operands(3, tokens, wide=True, delta=True)
        for found, wanted in zip(program.module()(*given_), linear_attention(*given_), strict=True):
            torch.testing.assert_close(found, wanted)
