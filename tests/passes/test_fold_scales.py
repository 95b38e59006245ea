"""Folding changes tensors, not the function, whatever the channels hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from awqc.graph.sites import SiteScale, scale_factor
from awqc.passes.fold_scales import FoldScales
from awqc.program import Program
from tests.tiny import SEARCHED, captured, inputs, model, relative, run
from tests.tiny import capture as capture_model

FOUND = "canonicalize,insert-observers,calibrate"


def with_scales(program: Program, spread: float, seed: int = 0) -> Program:
    """Random scales in ``[1 / spread, spread]`` at every site, at run time where refused."""
    generator = torch.Generator().manual_seed(seed)
    sites, scales = [], {}
    for site in program.findings.sites:
        runtime = site.status == "refused"
        count = site.channels if runtime else site.scales
        power = 2 * torch.rand(count, generator=generator) - 1
        scales[site.name] = SiteScale(spread**power, "random", 1.0, 1.0)
        sites.append(site.with_status("runtime") if runtime else site)
    program.learn(sites=tuple(sites), scales=scales)
    return program


@pytest.mark.parametrize("spread", [1.0, 4.0, 256.0])
def test_outputs_stay(program: Program, spread: float) -> None:
    run(program, FOUND)
    before = program.run(program.example)[0]
    with_scales(program, spread)
    FoldScales().apply(program)
    program.tidy()
    # Each tensor is rounded once more, 6e-8; the models are at most 6 products deep.
    assert relative(program.run(program.example)[0], before) < 2e-6
    assert all(site.status in ("folded", "runtime") for site in program.findings.sites)


HOSTILE: dict[str, Callable[[torch.Tensor], object]] = {
    "zero rows": lambda w: w[::2].zero_(),
    "zero columns": lambda w: w[:, ::3].zero_(),
    "all zero": lambda w: w.zero_(),
    "constant": lambda w: w.fill_(0.3),
    "outlier": lambda w: w[1, 1].fill_(1e4),
    "denormal": lambda w: w[2].fill_(1e-40),
}


@pytest.mark.parametrize("kind", list(HOSTILE))
@pytest.mark.parametrize("name", ["gated", "attention", "mlp"])
def test_hostile_weights_fold(name: str, kind: str) -> None:
    module = model(name)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim == 2:
                HOSTILE[kind](parameter)
    x = inputs(name)
    x[..., 3] = 0
    program = capture_model(module, x)
    with torch.no_grad():
        wanted = module(x)
    run(program, f"{SEARCHED},fold-scales")
    found = program.run(program.example)[0]
    assert bool(torch.isfinite(found).all())
    assert relative(found, wanted) < 2e-6 or float(wanted.norm()) == float(found.norm()) == 0
    for site in program.findings.sites:
        scale = program.findings.scales[site.name]
        assert bool(torch.isfinite(scale.scale).all())
        assert bool((scale.scale > 0).all())
        assert scale.loss <= scale.loss_nearest


def test_a_refused_site_is_left_alone_with_its_reason() -> None:
    program = run(captured("postnorm"), f"{SEARCHED}{{runtime-scales=never}}")
    before = {name: value.clone() for name, value in program.parameters().items()}
    changes = FoldScales().apply(program)
    refused = [site for site in program.findings.sites if site.status == "refused"]
    assert len(refused) == 3
    assert {change.where for change in changes if change.refused} == {s.name for s in refused}
    assert all(site.reason for site in refused)
    untouched = {reader.weight for site in refused for reader in site.readers}
    # The value rows of in_proj take the one legal fold.
    for name in untouched - {"self_attn.in_proj_weight"}:
        assert torch.equal(program.weight(name), before[name])


def test_a_site_that_was_not_searched_is_refused() -> None:
    program = run(captured("mlp"), "canonicalize,insert-observers,calibrate")
    FoldScales().apply(program)
    assert all(site.status in ("foldable", "refused") for site in program.findings.sites)


def test_folding_twice_changes_nothing_more() -> None:
    program = run(captured("mlp"), f"{SEARCHED},fold-scales")
    before = {name: value.clone() for name, value in program.parameters().items()}
    FoldScales().apply(program)
    program.tidy()
    after = program.parameters()
    assert set(after) == set(before)
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_runtime_scales_divide_the_input_and_multiply_the_columns() -> None:
    program = run(captured("mlp"), FOUND)
    first = program.findings.sites[0]
    assert first.status == "refused"
    before = program.weight("0.weight").clone()
    scale = torch.linspace(0.5, 2, 16)
    scales = {first.name: SiteScale(scale, "given", 1.0, 1.0)}
    program.learn(sites=(first.with_status("runtime"),), scales=scales)
    FoldScales().apply(program)
    torch.testing.assert_close(program.weight("0.weight"), before * scale)
    torch.testing.assert_close(program.weight("0.input_scale"), 1 / scale)


def test_scale_factors() -> None:
    scale = torch.tensor([2.0, 5.0])
    labels = torch.tensor([[0, 1], [-1, 2], [-2, 0]])
    wanted = torch.tensor([[1, 2], [0.5, 5], [0.2, 1]])
    torch.testing.assert_close(scale_factor(labels, scale), wanted)


def test_one_weight_in_two_sites_takes_both_scales() -> None:
    program = run(captured("gated"), FOUND)
    up = program.weight("up.weight").clone()
    with_scales(program, 4.0)
    columns, rows = (program.findings.scales[site.name].scale for site in program.findings.sites)
    FoldScales().apply(program)
    # Columns by the scale of what it reads, rows by the inverse of what its reader needs.
    torch.testing.assert_close(program.weight("up.weight"), up * columns / rows[:, None])


def test_tied_channels_share_one_scale() -> None:
    program = run(captured("attention"), FOUND)
    site = next(site for site in program.findings.sites if site.readers[0].weight == "o.weight")
    assert (site.channels, site.scales) == (32, 16)
    classes = site.readers[0].classes.reshape(2, 2, 8)
    assert torch.equal(classes[:, 0], classes[:, 1])


def test_a_wrong_status_does_not_fold() -> None:
    program = run(captured("gated"), SEARCHED)
    sites = [replace(site, status="refused", reason="no") for site in program.findings.sites]
    program.learn(sites=tuple(sites))
    changes = FoldScales().apply(program)
    assert all(change.refused and change.what == "no" for change in changes)


class Bare(torch.nn.Module):
    """Products with tensors that stand at the top, beside each other."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(8, 8))
        self.more = torch.nn.Parameter(torch.randn(8, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.nn.functional.gelu(torch.nn.functional.linear(x, self.weight))
        return torch.nn.functional.linear(y, self.more)


def test_scale_at_run_time_beside_a_tensor_at_the_top() -> None:
    program = capture_model(Bare(), torch.randn(4, 8))
    run(program, FOUND)
    before = program.run(program.example)[0]
    with_scales(program, 4.0)
    FoldScales().apply(program)
    program.tidy()
    assert relative(program.run(program.example)[0], before) < 2e-6
    assert {"weight", "weight_input_scale", "more", "more_input_scale"} <= set(program.parameters())
