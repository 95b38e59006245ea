"""Fold random scales at every site of a model, and measure what its outputs do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from awqc.capture.module import capture_module
from awqc.channels.analysis import find_sites
from awqc.graph.sites import Site, scale_factor
from awqc.passes.canonicalize import Canonicalize
from awqc.program import Program

TOLERANCE = 1e-10


def captured(model: nn.Module, *inputs: Tensor, dynamic: Any = None) -> Program:
    """``model`` in float64 as a canonical program."""
    wide = tuple(x.double() if x.is_floating_point() else x for x in inputs)
    program = capture_module(model.double().eval(), wide, dynamic=dynamic)
    Canonicalize().apply(program)
    program.tidy()
    return program


def fold_random(program: Program, sites: Sequence[Site], seed: int = 0) -> Program:
    """A copy with powers of four, exact as their roots are, folded at all ``sites``."""
    folded = program.clone()
    generator = torch.Generator().manual_seed(seed)
    for site in sites:
        scale = 4.0 ** torch.randint(-3, 4, (site.scales,), generator=generator)
        for name, labels in site.edits.items():
            value = folded.weight(name)
            factor = scale_factor(labels, scale).double()
            folded.set_weight(name, (value.double() * factor).to(value.dtype).expand(value.shape))
    return folded


def prove(model: nn.Module, *inputs: Tensor, dynamic: Any = None) -> list[Site]:
    """The sites of ``model``, after a check that folding them all leaves its outputs alone."""
    return prove_folds(captured(model, *inputs, dynamic=dynamic))


def prove_folds(program: Program) -> list[Site]:
    """The same of a program that `captured` gave."""
    sites = find_sites(program)
    foldable = [site for site in sites if site.status == "foldable"]
    folded = fold_random(program, foldable)
    for before, after in zip(
        program.run(program.example), folded.run(program.example), strict=True
    ):
        change = float((after.double() - before.double()).abs().max())
        size = float(before.double().abs().max())
        assert change <= TOLERANCE * max(size, 1.0), (change, size, sites)
    return sites


def by_weight(sites: Sequence[Site]) -> dict[str, Site]:
    """The site that each weight is read at."""
    return {reader.weight: site for site in sites for reader in site.readers}
