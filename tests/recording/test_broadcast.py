"""Functions over indices as operations that a graph can hold."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch._dynamo._trace_wrapped_higher_order_op import TransformGetItemToIndex

from awqc.recording.broadcast import broadcasting

KINDS = torch.tensor([[-1, 0, 0, 1], [0, -1, 1, 1]])


def over_indices(function: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
    """``function`` of samples, rows and columns, as libraries write masks."""
    for place in (2, 1, 0):
        function = torch.vmap(function, in_dims=tuple(0 if n == place else None for n in range(3)))
    return function(torch.arange(2), torch.arange(3), torch.arange(4))


def same_kind(sample: Tensor, row: Tensor, column: Tensor) -> Tensor:
    return (KINDS[sample, row] == KINDS[sample, column]) | (column <= row)


def test_it_gives_what_mapping_gives() -> None:
    wanted = over_indices(same_kind)
    with broadcasting():
        assert torch.equal(over_indices(same_kind), wanted)
        one_axis = over_indices(lambda sample, row, column: column > 1)
    assert torch.equal(one_axis, (torch.arange(4) > 1).expand(2, 3, 4))


def test_other_mapping_stays() -> None:
    both = torch.arange(3.0)
    with broadcasting():
        assert torch.equal(torch.vmap(torch.add)(both, both), 2 * both)
    assert torch.vmap(torch.neg)(both).tolist() == [-0.0, -1.0, -2.0]


class Masks(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        with broadcasting(), TransformGetItemToIndex():
            return x + over_indices(same_kind)


def test_a_graph_of_it_has_no_mapping() -> None:
    x = torch.zeros(2, 3, 4)
    exported = torch.export.export(Masks(), (x,), strict=False)
    targets = {str(node.target) for node in exported.graph.nodes if node.op == "call_function"}
    assert "aten.index.Tensor" in targets
    assert all(target.startswith("aten.") for target in targets)
    assert torch.equal(exported.module()(x), Masks()(x))
