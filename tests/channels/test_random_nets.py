"""Folding at all sites of random networks never moves an output."""

from __future__ import annotations

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.channels.proving import prove
from tests.channels.random_nets import STEPS, WIDTH, RandomNet


@settings(max_examples=16, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    st.lists(st.sampled_from(STEPS), min_size=1, max_size=6),
    st.integers(0, 2**20),
    st.booleans(),
)
def test_folding_keeps_the_function(names: list[str], seed: int, from_tokens: bool) -> None:
    net = RandomNet(names, seed, from_tokens)
    x = torch.randint(0, 11, (2, 6)) if from_tokens else torch.randn(2, 6, WIDTH)
    prove(net, x)
