"""Linear attention runs in onnxruntime and in torch alone, as a scan that both know."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

from awqc.capture.module import capture_module
from awqc.export.onnx import export_onnx
from awqc.export.pt2 import export_pt2
from awqc.graph.recurrence import linear_attention
from awqc.program import Batch, Program
from tests.export.quantizing import run_onnx

HEADS, WIDTH, SIZE = 2, 4, 8
NAMES = ("query", "key", "value", "decay", "beta", "state")


class Reads(nn.Module):
    """Two of them, one behind the other, each with a state of its own."""

    def __init__(self, delta: bool) -> None:
        super().__init__()
        self.delta = delta
        self.project = nn.Linear(SIZE, SIZE)

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, decay: Tensor, beta: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        rate = beta if self.delta else None
        first, left = linear_attention(query, key, value, decay, rate, state)
        second, other = linear_attention(query, key, self.project(first), decay, rate, state)
        return second, left, other


def batch_of(rows: int, tokens: int, *, wide: bool) -> Batch:
    drawn = torch.Generator().manual_seed(tokens)
    sizes = [(WIDTH,), (WIDTH,), (SIZE,), (WIDTH if wide else 1,), ()]
    made = [torch.randn(rows, tokens, HEADS, *each, generator=drawn) for each in sizes]
    made[1] = nn.functional.normalize(made[1], dim=-1)
    made[3], made[4] = -made[3].abs(), made[4].sigmoid()
    state = torch.randn(rows, HEADS, WIDTH, SIZE, generator=drawn)
    return dict(zip(NAMES, (*made, state), strict=True))


def captured(*, delta: bool, wide: bool) -> tuple[Reads, Program]:
    torch.manual_seed(0)
    model = Reads(delta).eval()
    axes = {name: {0: "batch", 1: "tokens"} for name in NAMES[:-1]} | {"state": {0: "batch"}}
    return model, capture_module(model, batch_of(2, 5, wide=wide), dynamic=axes)


@pytest.mark.parametrize("delta", [True, False])
@pytest.mark.parametrize("wide", [True, False])
def test_a_scan_gives_the_same_at_any_size(delta: bool, wide: bool, tmp_path: Path) -> None:
    model, program = captured(delta=delta, wide=wide)
    export_onnx(program, tmp_path / "model.onnx")
    written = onnx.load(tmp_path / "model.onnx")
    assert {node.domain for node in written.graph.node} == {""}
    assert [node.op_type for node in written.graph.node].count("Scan") == 2
    for rows, tokens in ((1, 1), (3, 2), (2, 17)):
        batch = batch_of(rows, tokens, wide=wide)
        with torch.no_grad():
            wanted = model(**batch)
        for found, value in zip(run_onnx(tmp_path / "model.onnx", batch), wanted, strict=True):
            torch.testing.assert_close(found, value, rtol=1e-5, atol=1e-5)


def test_an_archive_of_it_needs_torch_alone(tmp_path: Path) -> None:
    """Nor does it hold where it was made."""
    files = []
    for delta in (True, False):
        model, program = captured(delta=delta, wide=False)
        archive, values = (tmp_path / f"{delta}.{suffix}" for suffix in ("pt2", "pt"))
        export_pt2(program, archive)
        batch = batch_of(3, 7, wide=False)
        with torch.no_grad():
            torch.save((batch, model(**batch)), values)
        assert b"stack_trace" not in archive.read_bytes()
        files += [str(archive), str(values)]
    code = (
        "import sys, torch\n"
        "for archive, values in zip(sys.argv[1::2], sys.argv[2::2]):\n"
        "    batch, wanted = torch.load(values)\n"
        "    with torch.no_grad():\n"
        "        found = torch.export.load(archive).module()(**batch)\n"
        "    for pair in zip(found, wanted, strict=True):\n"
        "        torch.testing.assert_close(*pair, rtol=1e-5, atol=1e-5)\n"
        "assert not [name for name in sys.modules if name.startswith('awqc')]\n"
    )
    subprocess.run([sys.executable, "-P", "-c", code, *files], check=True)
