"""The search: never worse than rounding to nearest, and its loss is the true one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from awqc.graph.linears import find_linears
from awqc.numerics.formats.int_grid import BITS, IntGrid
from awqc.numerics.quantizing import fake_quantize
from awqc.numerics.statistics import Accumulator, Statistics
from awqc.passes.pipeline import parse_pipeline
from awqc.program import Program
from awqc.weights.decisions import decide
from awqc.weights.scale_search import SCALE_LIMIT, Part, Search
from tests.tiny import SEARCHED, calibration, captured, run


def observed(x: Tensor) -> Statistics:
    accumulator = Accumulator(256, 0)
    assert accumulator.add(x)
    return accumulator.finish()


@pytest.mark.parametrize(
    ("runtime", "bits"), [*(("auto", bits) for bits in BITS), ("never", 3), ("always", 3)]
)
def test_no_site_is_worse_than_nearest(program: Program, bits: Any, runtime: str) -> None:
    spec = f"{SEARCHED}{{grid=6,runtime-scales={runtime}}},fold-scales,quantize-weights"
    parse_pipeline(spec, quantize_weights={"bits": bits}).run(program, calibration(program))
    assert program.findings.scales
    for site in program.findings.sites:
        found = program.findings.scales[site.name]
        assert found.loss <= found.loss_nearest
        assert found.candidate != "identity" or found.loss == found.loss_nearest
        scale = found.scale
        assert float(scale.max()) <= SCALE_LIMIT * 1.001
        assert float(scale.min()) >= 1 / SCALE_LIMIT / 1.001
        if runtime == "never":
            assert site.status != "runtime"
        if site.status == "runtime" and runtime == "auto":
            assert found.loss < 0.9 * found.loss_nearest


def test_the_reported_loss_is_the_models_own() -> None:
    """For one product, the loss is the mean squared output error over the tokens."""
    program = captured("mlp")
    x = torch.cat([batch[program.inputs[0].name] for batch in calibration(program)])
    weight = program.weight("0.weight").clone()
    run(program, SEARCHED)
    found = program.findings.scales[program.findings.sites[0].name]
    (first, *_) = find_linears(program.graph)
    form = decide(program).formats[first.weight_name]
    for scale, loss in ((torch.ones(16), found.loss_nearest), (found.scale, found.loss)):
        restored = fake_quantize(weight * scale, form, torch.float32) / scale
        truth = (x.double() @ (restored - weight).double().T).square().sum() / len(x)
        assert loss == pytest.approx(float(truth), rel=1e-3)


def test_outlier_channels_gain_much() -> None:
    """The case that AWQ is for: a few channels carry the output."""
    x = torch.randn(1, 400, 64)
    x[..., :2] *= 50
    part = Part(torch.randn(1, 32, 64), torch.arange(64).unsqueeze(0), observed(x), IntGrid(4, 64))
    search = Search([part], 64, 256)
    best = search.run(20)
    assert best.loss < 0.4 * search.nearest
    assert bool((best.scale[:2] > best.scale[2:].max()).all())
    assert float(best.scale.log().mean()) == pytest.approx(0, abs=1e-5)


def test_tied_channels_are_searched_as_one() -> None:
    x = torch.randn(1, 100, 8)
    classes = torch.tensor([[0, 1, 0, 1, 2, 2, -1, -1]])
    part = Part(torch.randn(1, 4, 8), classes, observed(x), IntGrid(4, -1))
    factor = part.column_scale(torch.tensor([2.0, 3.0, 5.0]))[0, 0]
    assert factor.tolist() == [2, 3, 2, 3, 5, 5, 1, 1]
    assert Search([part], 3, 256).run(4).scale.shape == (3,)


HOSTILE: dict[str, Callable[[Tensor, Tensor], object]] = {
    "dead channels": (lambda x, w: x[..., ::2].zero_()),
    "no signal at all": (lambda x, w: x.zero_()),
    "zero weights": (lambda x, w: w.zero_()),
    "zero rows": (lambda x, w: w[:, ::2].zero_()),
    "one huge channel": (lambda x, w: x[..., 0].fill_(1e8)),
    "one huge weight": (lambda x, w: w[:, 0, 0].fill_(1e20)),
    "denormal channel": (lambda x, w: x[..., 1].fill_(1e-40)),
    "constant": (lambda x, w: (x.fill_(1.0), w.fill_(0.5))),
}


@pytest.mark.parametrize("kind", list(HOSTILE))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_hostile_channels_give_usable_scales(kind: str, dtype: torch.dtype) -> None:
    x, weight = torch.randn(1, 60, 48), torch.randn(1, 12, 48)
    HOSTILE[kind](x, weight)
    part = Part(weight, torch.arange(48).unsqueeze(0), observed(x), IntGrid(4, 32), dtype)
    search = Search([part], 48, 256)
    best = search.run(8)
    assert best.loss <= search.nearest
    assert bool(torch.isfinite(best.scale).all())
    assert bool((best.scale >= 1 / SCALE_LIMIT / 1.001).all())
    assert bool((best.scale <= SCALE_LIMIT * 1.001).all())


def test_a_second_search_finds_the_same() -> None:
    first, second = (run(captured("gated"), SEARCHED).findings.scales for _ in range(2))
    assert all(torch.equal(first[name].scale, second[name].scale) for name in first)
