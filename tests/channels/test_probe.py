"""Whatever numbers alone say could be absorbed, the analysis has found."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor, nn

from awqc.channels.analysis import find_sites
from benchmarks.probe import Probe
from tests.channels.proving import captured
from tests.channels.random_nets import STEPS, WIDTH, RandomNet


@pytest.mark.parametrize("seed", range(6))
def test_nothing_is_missed_in_random_networks(seed: int) -> None:
    names = random.Random(seed).choices(STEPS, k=2)
    program = captured(RandomNet(names, seed, False), torch.randn(6, 6, WIDTH))
    for compared in Probe(program).compare(find_sites(program)):
        assert compared.found >= compared.possible, (names, compared)


def test_the_probe_tells_what_a_norm_absorbs_and_a_gelu_does_not() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.up, self.down = nn.RMSNorm(8), nn.Linear(8, 6), nn.Linear(6, 8)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.down(torch.nn.functional.gelu(self.up(self.norm(x))))
            return out

    program = captured(Two(), torch.randn(4, 8))
    compared = {c.weight: c for c in Probe(program).compare(find_sites(program))}
    assert (compared["up.weight"].found, compared["up.weight"].possible) == (7, 7)
    assert (compared["down.weight"].found, compared["down.weight"].possible) == (0, 0)
