"""A handful of the zoo, compiled end to end."""

from __future__ import annotations

import pytest

from benchmarks.zoo import EXACT, run_one


@pytest.mark.parametrize("name", ["torch/mlp-relu", "torch/graph-conv", "torch/conv-net"])
def test_zoo_model_compiles(name: str) -> None:
    result = run_one(name)
    assert result["stage"] == "done", result
    assert result["export_rel"] <= EXACT
    assert result["status"]["folded"] > 0
