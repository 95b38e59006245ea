"""What runs around parts: the tensors that are read beside them."""

from __future__ import annotations

import torch
from torch import nn

from awqc.recording.around import noting_reads


def test_tensors_that_are_read_in_any_way_are_noted() -> None:
    norm, table = nn.LayerNorm(2), nn.Embedding(4, 2)
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(norm, table))
    model.register_buffer("scale", torch.ones(1))
    modules = {f"model.{path}" if path else "model": m for path, m in model.named_modules()}
    with noting_reads(modules) as found:
        norm(torch.ones(2)) * model.scale
        assert table.weight.shape == (4, 2)
    assert sorted(found) == ["model.1.0.bias", "model.1.0.weight", "model.scale"]
    with noting_reads(modules) as found:
        nn.functional.embedding(torch.tensor([1]), table.weight)
    assert sorted(found) == ["model.1.1.weight"]
