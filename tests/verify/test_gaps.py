"""Several outputs: each by itself, and the worst."""

from __future__ import annotations

import math

import pytest
import torch

from awqc.errors import VerificationError
from awqc.verify.gaps import Gaps
from tests.tiny import relative


def test_the_worst_output_speaks_for_the_model() -> None:
    wanted = {"a": torch.randn(20, 4) * 100, "b": torch.randn(20, 4), "state": torch.randn(20, 4)}
    moved = {"a": 1.01, "b": 1.1, "state": 1.5}
    gaps = Gaps(states={"state"})
    for name, value in wanted.items():
        gaps.add(name, value * moved[name], value)
    assert gaps.worst == "b"
    distance, loss = gaps.distance(), gaps.loss()
    assert distance["worst"] == loss["worst"] == "b"
    assert distance["rel"] == loss["rel"] == gaps.rel == gaps.outputs["b"].rel
    assert {name: entry["rel"] for name, entry in distance["outputs"].items()} == {
        name: pytest.approx(factor - 1, rel=0.1) for name, factor in moved.items()
    }
    now = torch.cat([value * moved[name] for name, value in wanted.items()])
    assert distance["norm_rel"] == pytest.approx(relative(now, torch.cat([*wanted.values()])))


def test_no_output_at_all_is_no_agreement() -> None:
    assert (Gaps().worst, Gaps().rel) == (None, math.inf)
    assert Gaps().distance()["outputs"] == Gaps().loss()["outputs"] == {}


def test_another_shape_names_the_output() -> None:
    with pytest.raises(VerificationError, match=r"^y: an output has shape"):
        Gaps().add("y", torch.zeros(2, 3), torch.zeros(3, 2))
