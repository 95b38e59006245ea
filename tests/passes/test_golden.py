"""What each pass does to a graph, as text: reviewed like code, updated with --update-golden."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from awqc.artifacts.recipe import write_recipe
from awqc.graph.dump import compare_weights, diff, dump
from awqc.passes.base import Change
from awqc.passes.convert_dtype import ConvertDtype
from awqc.passes.pipeline import DEFAULT, PASSES, parse_pipeline
from awqc.passes.untie_head import UntieHead
from awqc.program import Program
from tests.conftest import Golden
from tests.tiny import calibration, capture, captured, run

WHOLE = 1000
"""Lines of context: all of a small graph."""


class Assorted(nn.Module):
    """What canonicalize rewrites: products in their dresses, constants, no-ops, a batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.rand(12))
        self.matrix = nn.Parameter(torch.randn(12, 8) / 4)
        self.added = nn.Parameter(torch.randn(8, 8) / 4)
        self.bias = nn.Parameter(torch.randn(8))
        self.heads = nn.Parameter(torch.randn(8, 2, 4) / 4)
        self.dropout = nn.Dropout(0.5)
        self.conv = nn.Conv1d(2, 6, 1, bias=False)
        self.norm = nn.BatchNorm1d(6)

    def forward(self, x: Tensor) -> Tensor:
        h = self.dropout(x * (1 + self.gain)) @ self.matrix
        h = torch.addmm(self.bias, h.to(torch.float32), self.added)
        h = torch.einsum("bd,dhk->bhk", h, self.heads)
        out: Tensor = self.norm(self.conv(h))
        return out


def assorted() -> Program:
    torch.manual_seed(0)
    module = Assorted().eval()
    assert module.norm.running_mean is not None
    module.norm.running_mean.normal_()
    return capture(module, torch.randn(3, 12))


def text(before: Program, after: Program, changes: list[Change]) -> str:
    """The changes, the tensors that changed, and the two graphs as one diff."""
    old, new = dump(before.graph_module), dump(after.graph_module)
    graphs = diff(old, new, WHOLE) or f"the graph stays\n{old}"
    parts = [map(str, changes), compare_weights(before.graph_module, after.graph_module)]
    return "\n\n".join([*("\n".join(part) or "none" for part in parts), graphs])


def effect(program: Program, spec: str) -> str:
    """Text of what the last pass of ``spec`` does, after the others."""
    seen: list[str] = []
    parse_pipeline(spec).run(
        program,
        calibration(program),
        lambda _, before, after, made: seen.append(text(before, after, made)),
    )
    return seen[-1]


class Tied(nn.Module):
    """A language model of no layers, whose head is its table."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.norm = nn.Embedding(96, 48), nn.RMSNorm(48)

    def forward(self, ids: Tensor) -> Tensor:
        return nn.functional.linear(self.norm(self.table(ids)), self.table.weight)


def tied() -> Program:
    torch.manual_seed(0)
    program = capture(Tied().eval(), torch.zeros(2, 3, dtype=torch.long))
    program.task = replace(program.task, head_outputs=program.outputs)
    return program


@dataclass(frozen=True)
class Case:
    model: str
    passes: int
    options: str = ""


CASES = [
    *(Case("gated", count) for count in range(1, 7)),
    *(Case("mlp", count) for count in (2, 4, 5)),
    Case("attention", 5),
    Case("postnorm", 1),
    Case("postnorm", 5),
    Case("conv", 1),
    Case("conv", 2),
    Case("conv", 6, "{bits=8,symmetric=true}"),
]


def _name(case: Case) -> str:
    return f"{DEFAULT.split(',')[case.passes - 1]}-{case.model}"


@pytest.mark.parametrize("case", CASES, ids=_name)
def test_pass(case: Case, golden: Golden) -> None:
    spec = ",".join(DEFAULT.split(",")[: case.passes]) + case.options
    golden(_name(case), effect(captured(case.model), spec))


def test_canonicalize_assorted(golden: Golden) -> None:
    golden("canonicalize-assorted", effect(assorted(), "canonicalize"))


LEARNED = DEFAULT.replace("observers", "observers{gram=true}") + "{%s}"


def test_rounding_that_learns(golden: Golden) -> None:
    spec = LEARNED % "rounding=gptq,clip=true,sweeps=1"
    golden("quantize-weights-gptq-mlp", effect(captured("mlp"), spec))


def test_tune_scales(golden: Golden) -> None:
    spec = f"{LEARNED % 'bits=3,keep-float=true'},tune-scales{{rate=0.002,step=2}}"
    golden("tune-scales-mlp", effect(captured("mlp"), spec))


def test_allocate_bits(golden: Golden) -> None:
    spec = ",".join(DEFAULT.split(",")[:5]) + ",allocate-bits{avg-bits=8}"
    golden("allocate-bits-mlp", effect(captured("mlp"), spec))


def test_untie_head(golden: Golden) -> None:
    program = tied()
    before = program.clone()
    changes = UntieHead().apply(program)
    program.tidy()
    golden("untie-head-tied", text(before, program, changes))
    ids = torch.arange(6).view(2, 3)
    assert torch.equal(program.run({"ids": ids})[0], before.run({"ids": ids})[0])
    assert not UntieHead().apply(program)


def test_load_scales(golden: Golden, tmp_path: Path) -> None:
    done = run(captured("mlp"), DEFAULT)
    write_recipe(done, DEFAULT, tmp_path)
    found = effect(captured("mlp"), f"canonicalize,load-scales{{recipe={tmp_path}}}")
    golden("load-scales-mlp", found)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_convert_dtype(dtype: str, golden: Golden) -> None:
    program = run(captured("gated"), DEFAULT)
    before = program.clone()
    changes = ConvertDtype(dtype).apply(program)
    program.tidy()
    golden(f"convert-dtype-{dtype}", text(before, program, changes))


def test_every_pass_has_a_golden_text() -> None:
    files = [path.name for path in (Path(__file__).parents[1] / "golden").glob("*.txt")]
    for name in [*PASSES, ConvertDtype.name]:
        assert any(file.startswith(f"{name}-") for file in files), name
