"""An archive's scan over tokens is linear attention again, if it computes that and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._higher_order_ops.scan import scan

from awqc.capture.exported import program_from_exported
from awqc.errors import UnsupportedGraphError
from awqc.export.pt2 import export_pt2
from awqc.graph.recurrence import OPERATION
from awqc.graph.trace_module import trace_module
from awqc.sources.source import load_program
from tests.export.test_scans import NAMES, batch_of, captured


@pytest.mark.parametrize("delta", [True, False])
@pytest.mark.parametrize("wide", [True, False])
def test_what_an_archive_holds_is_read_back(delta: bool, wide: bool, tmp_path: Path) -> None:
    model, program = captured(delta=delta, wide=wide)
    export_pt2(program, tmp_path / "model.pt2")
    again = load_program(tmp_path / "model.pt2")
    assert [node.target for node in again.graph.nodes].count(OPERATION) == 2
    batch = batch_of(3, 7, wide=wide)
    with torch.no_grad():
        wanted = model(**batch)
    for found, value in zip(again.run(batch), wanted, strict=True):
        torch.testing.assert_close(found, value, rtol=1e-4, atol=1e-4)


class OwnScan(nn.Module):
    """A scan of the same shape, whose state does something else."""

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, decay: Tensor, beta: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        def step(state: Tensor, token: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
            query, key, value, decay, _ = token
            state = state * decay.sigmoid().unsqueeze(-1)
            state = state + key.unsqueeze(-1) * value.unsqueeze(-2)
            return state.clone(), (query.unsqueeze(-2) @ state).squeeze(-2)

        tokens = tuple(each.movedim(1, 0) for each in (query, key, value, decay, beta))
        left, results = scan(step, state, tokens)
        made: tuple[Tensor, Tensor] = results, left
        return made


def test_another_scan_is_refused() -> None:
    free: Any = torch.export.Dim.DYNAMIC
    batch = batch_of(2, 5, wide=False)
    shapes = {name: {0: free, 1: free} for name in NAMES[:-1]} | {"state": {0: free}}
    exported = trace_module(OwnScan(), (), batch, shapes)
    with pytest.raises(UnsupportedGraphError, match=r"scan .* is a call of scan, which computes"):
        program_from_exported(exported)


class Sums(nn.Module):
    """A scan of other operands, whose state has a size that is free."""

    def forward(self, x: Tensor) -> Tensor:
        def step(total: Tensor, each: Tensor) -> tuple[Tensor, Tensor]:
            total = total + each
            return total.clone(), total.clone()

        made: Tensor = scan(step, torch.zeros_like(x[:, 0]), x, dim=1)[1]
        return made


def test_a_scan_of_other_operands_is_refused() -> None:
    free: Any = torch.export.Dim.DYNAMIC
    exported = trace_module(Sums(), (torch.randn(2, 3, 5),), {}, ({0: free, 1: free, 2: free},))
    with pytest.raises(UnsupportedGraphError, match=r"scan .* is a call of scan, which computes"):
        program_from_exported(exported)
