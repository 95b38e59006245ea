"""Two compiles are one where all that segments depend on is the same, and each thing counts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from awqc.executor.run import Run
from awqc.executor.segments import Segment, whole
from awqc.findings import Decisions
from awqc.machine.narrow import Narrow
from awqc.passes.compile_identity import _choice, identify
from awqc.passes.pipeline import parse_pipeline
from awqc.program import Batch, Program
from tests.processes import Processes
from tests.tiny import calibration, captured

SPEC = "canonicalize,insert-observers,calibrate,search-scales,fold-scales,quantize-weights"


def begun() -> Program:
    program = captured("mlp")
    parse_pipeline("canonicalize,insert-observers").run(program)
    return program


def found(
    program: Program,
    batches: list[Batch] | None = None,
    spec: str = SPEC,
    segments: Sequence[Segment] | None = None,
) -> dict[str, str]:
    run, steps = Run(tuple(batches or calibration(program))), parse_pipeline(spec).passes
    return identify(program, steps, run, program.example, segments or halves(program))


def halves(program: Program) -> list[Segment]:
    """Two segments; where they may be cut is nothing to this test."""
    nodes = tuple(program.graph.nodes)
    return [Segment(nodes[: len(nodes) // 2]), Segment(nodes[len(nodes) // 2 :])]


def test_it_is_the_same_in_every_process(processes: Processes, tmp_path: Path) -> None:
    code = "from tests.passes.test_compile_identity import begun, found; print(found(begun()))"
    printed = processes.start(code, [], cwd=tmp_path, env=dict(os.environ)).wait()
    assert printed.stdout == f"{found(begun())}\n", printed.stderr


def test_sets_have_no_order() -> None:
    """Theirs is another in every process."""
    names = [f"table {number}" for number in range(20)]
    one, other = (Decisions({}, frozenset(order), {}, {}) for order in (names, names[::-1]))
    assert str(_choice(one)) == str(_choice(other)) == str([{}, sorted(names), {}, {}])


def test_a_tensor_counts_as_it_is_kept() -> None:
    program = begun()
    name = "0.weight"
    stored = torch.randn(32, 16).bfloat16()
    module = program.graph_module.get_submodule("0")
    seen = []
    for weight in (
        Narrow.of(stored),
        Narrow.of(stored.clone()),
        torch.nn.Parameter(stored.float()),
    ):
        module.weight = weight
        seen.append(found(program)[f"tensor {name}"])
    assert seen[0] == seen[1] != seen[2]


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ("data", {"calibration data"}),
        ("weight", {"tensor 2.weight"}),
        ("bits", {"pass quantize-weights", "choice of weights"}),
        ("search", {"pass search-scales"}),
        ("cut", {"segments", "places of segments"}),
        ("scales", {"choice of weights"}),
        ("watched", {"held-out data", "example"}),
    ],
)
def test_each_thing_counts(change: str, names: set[str]) -> None:
    program = begun()
    batches, before = calibration(program), found(program)
    spec, segments = SPEC, None
    if change == "data":
        next(iter(batches[-1].values()))[0, 0] += 1
    elif change == "weight":
        program.weight("2.weight")[0, 0] += 1
    elif change == "bits":
        spec = SPEC + "{bits=8}"
        program.quantization = replace(program.quantization, bits=8)
    elif change == "search":
        spec = SPEC.replace("search-scales", "search-scales{grid=3}")
    elif change == "cut":
        segments = whole(program)
    elif change == "scales":
        program.scale_dtype = torch.float16
    else:
        next(iter(program.example.values()))[0, 0] += 1
    now = found(program, batches, spec, segments)
    assert {name for name in {*before, *now} if before.get(name) != now.get(name)} == names
