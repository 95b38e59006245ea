"""Passes on another device than the CPU give the same weights.

No such device is needed: `tests.elsewhere` computes on the CPU, and refuses what a real one would.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from awqc.errors import CalibrationError
from awqc.executor.segments import cut
from awqc.machine.devices import CPU
from awqc.machine.narrow import Narrow
from awqc.passes.base import Change
from awqc.passes.pipeline import Pipeline, parse_pipeline
from awqc.program import Program
from tests.elsewhere import ELSEWHERE, Elsewhere
from tests.executor.test_segments import decoder
from tests.passes.test_in_segments import Tied, data
from tests.passes.test_pipeline import Wrong
from tests.tiny import capture

TUNED = (
    "canonicalize,insert-observers{gram=true},calibrate,search-scales{runtime-scales=always},"
    "fold-scales,quantize-weights{rounding=gptq,clip=true,group-size=16,keep-float=true},"
    "tune-scales"
)
NUMERICS = (
    "canonicalize,insert-observers{samples=8},calibrate,"
    "search-scales{runtime-scales=always,runtime-numerics=ort-default},fold-scales,"
    "quantize-weights{group-size=16}"
)
SEQUENTIAL = (
    "canonicalize,insert-observers{gram=true},calibrate,search-scales,fold-scales,"
    "quantize-weights{rounding=gptq,sweeps=1,group-size=16,sequential=true}"
)


def kept_in_half() -> Program:
    """A program whose weights are stored in bfloat16, and read in float32."""
    torch.manual_seed(0)
    program = capture(Tied().eval(), torch.randint(256, (2, 5)))
    for name, weight in program.parameters().items():
        if weight.ndim == 2:
            program.set_weight(name, Narrow.of(weight.detach().bfloat16()))
    return program


def compiled(make: Callable[[], Program], spec: str, device: torch.device) -> Program:
    program = make()
    torch.manual_seed(1)
    batches = data(program) * (3 if spec == TUNED else 1)
    pieces = partial(cut, smallest=1)
    parse_pipeline(spec).run(program, batches, cut=pieces, device=device)
    return program


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "spec"),
    [(kept_in_half, TUNED), (decoder, NUMERICS), (decoder, SEQUENTIAL)],
    ids=["tuned, kept in half", "int8 inputs", "sequential"],
)
def test_another_device_gives_the_same_weights(make: Callable[[], Program], spec: str) -> None:
    """To the rounding of float32: products are summed in another order there."""
    here = compiled(make, spec, CPU)
    with Elsewhere() as away:
        there = compiled(make, spec, ELSEWHERE)
    assert sum(away.arrived) >= sum(weight.numel() for weight in here.parameters().values())
    assert here.findings.quantized.keys() == there.findings.quantized.keys()
    for name, weight in here.findings.quantized.items():
        twin = there.findings.quantized[name]
        assert {type(tensor) for tensor in twin.tensors.values()} == {Tensor}, name
        torch.testing.assert_close(twin.dequantize(), weight.dequantize(), rtol=1e-5, atol=1e-6)
    one, other = here.findings.tuning, there.findings.tuning
    assert (one is None) == (spec != TUNED)
    if one is not None and other is not None:
        assert one.kept
        assert other.kept
        assert other.after == pytest.approx(one.after, rel=1e-4)


def test_what_a_device_has_no_memory_for_is_said() -> None:
    def break_(program: Program) -> list[Change]:
        raise torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has 2 GiB"
        )

    program = capture(nn.Linear(4, 4), torch.randn(2, 4))
    with pytest.raises(
        CalibrationError,
        match=r"wrong: cpu has too little memory: CUDA out of memory. Give fewer or shorter",
    ):
        Pipeline((Wrong(break_),)).run(program)
