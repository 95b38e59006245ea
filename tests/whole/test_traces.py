"""What calibrates a model that generates may be off by a rounding; what judges it may not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from awqc.huggingface.generating import Followed
from awqc.machine import products
from awqc.whole.compiling import held_back
from awqc.whole.from_folder import follow_all


@pytest.mark.usefixtures("quick_products")
def test_samples_that_are_held_back_are_traced_in_whole_products() -> None:
    generator = torch.Generator().manual_seed(0)
    samples = [{"x": torch.randn(64, 256, generator=generator)} for _ in range(6)]

    def follow(inputs: dict[str, Tensor]) -> Followed:
        return Followed(({}, {"y": inputs["x"] @ inputs["x"].T}), [])

    whole = [made["y"] for _, made in (each.trace for each in map(follow, samples))]
    found = [made["y"] for _, made in (each.trace for each in follow_all(follow, samples))]
    same = [torch.equal(now, was) for now, was in zip(found, whole, strict=True)]
    kept = held_back(len(samples))
    assert same[-kept:] == [True] * kept
    assert any(same[:-kept]) != products.has_quick_products()
