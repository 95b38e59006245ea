"""The pass ``fold-scales``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from awqc.executor.run import NO_DATA, Run
from awqc.findings import Fact, Facts
from awqc.graph.linears import Linear, find_linears
from awqc.graph.sites import Site, scale_factor
from awqc.machine.narrow import scaled
from awqc.passes.base import Change, Pass
from awqc.program import Program

aten = torch.ops.aten


@dataclass(frozen=True)
class FoldScales(Pass):
    """Fold each searched scale into the tensors that carry it.

        before:  x = rms_norm(h, g)           linear(x, W)
        after:   x = rms_norm(h, g / s)       linear(x, W * s)        s: (in_features,)

    Where folding is refused and the search found it worth an operation::

        before:  linear(x, W)
        after:   linear(mul(x, 1 / s), W * s)

    Requires: search-scales.  Keeps: float outputs, to rounding.
    Refuses: sites with a reader that cannot take a scale, with the reason.
    Source: AWQ, arXiv 2306.00978, section 3.2.
    """

    name: ClassVar[str] = "fold-scales"
    keeps_output: ClassVar[bool] = True
    needs: ClassVar[Facts] = frozenset({Fact.SCALES})
    bars: ClassVar[Facts] = frozenset({Fact.OBSERVERS, Fact.CODES, Fact.HALF})

    def apply(self, program: Program, run: Run = NO_DATA) -> list[Change]:
        """Fold or insert the scales of every site."""
        changes = []
        sites = []
        for site in program.findings.sites:
            found = program.findings.scales.get(site.name)
            if site.status == "refused" or found is None:
                changes.append(Change(site.name, site.reason or "not searched", refused=True))
                sites.append(site)
            elif site.status == "folded":
                changes.append(Change(site.name, "folded before", refused=True))
                sites.append(site)
            elif site.status == "runtime":
                if _insert(program, site, found.scale):
                    changes.append(Change(site.name, f"{found.candidate} by a mul at run time"))
                else:
                    changes.append(Change(site.name, "scaled before", refused=True))
                sites.append(site)
            else:
                for name, labels in site.edits.items():
                    value = program.weight(name)
                    factor = scale_factor(labels, found.scale)
                    program.set_weight(name, scaled(value, factor))
                changes.append(Change(site.name, f"{found.candidate} into {', '.join(site.edits)}"))
                sites.append(site.with_status("folded"))
        program.learn(sites=tuple(sites))
        return changes


def _insert(program: Program, site: Site, scale: Tensor) -> bool:
    """Multiply the value by ``1 / s`` for the products of the site, and their columns by ``s``.

    Returns whether that was still to be done.
    """
    own = {reader.node for reader in site.readers}
    linears = [
        linear
        for linear in find_linears(program.graph)
        if linear.node.name in own and linear.input.name == site.value
    ]
    if not linears:
        return False
    first = linears[0]
    rank = len(first.input.meta["val"].shape)
    axis = rank - 1 - len(first.kernel)
    shape = [-1 if i == axis else 1 for i in range(rank)]
    if axis == rank - 1:
        shape = [-1]
    dtype = program.weight(first.weight_name).dtype
    name = program.fresh_name(f"{first.name}.input_scale")
    read = program.add_weight(name, (1 / scale).to(dtype).reshape(shape), first.node)
    product = program.call_op(first.node, aten.mul.Tensor, first.input, read)
    for linear in linears:
        linear.node.replace_input_with(linear.input, product)
    for weight_name, linear in {linear.weight_name: linear for linear in linears}.items():
        _scale_columns(program, weight_name, linear, scale)
    return True


def _scale_columns(program: Program, name: str, linear: Linear, scale: Tensor) -> None:
    value = program.weight(name)
    factor = scale[linear.column_channels()].unsqueeze(1)
    program.set_weight(name, scaled(linear.matrix(value), factor).reshape(value.shape))
