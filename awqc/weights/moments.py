"""What a product reads, as its weight sees it after scales went in.

Statistics are taken once, before scales are folded; a folded scale divides the activation's
channels and multiplies the weight's columns.
"""

from __future__ import annotations

import torch
from torch import Tensor

from awqc.graph.linears import Linear
from awqc.machine.devices import CPU, moved
from awqc.numerics.statistics import Statistics
from awqc.program import Program


def column_scale(program: Program, linear: Linear) -> Tensor:
    """What the columns of ``linear``'s weight were multiplied by: ``(blocks, columns)``."""
    factor = torch.ones(linear.blocks, linear.columns)
    for site in program.findings.sites:
        found = program.findings.scales.get(site.name)
        if found is None or site.status not in ("folded", "runtime"):
            continue
        for reader in site.readers:
            if reader.node == linear.node.name:
                padded = torch.cat([found.scale, torch.ones(1)])
                factor = factor * padded[reader.classes[linear.column_channels()]]
    return factor


def scaled_gram(statistics: Statistics, scale: Tensor, device: torch.device = CPU) -> Tensor | None:
    """The gram ``(blocks, K, K)`` of the activation divided by ``scale`` ``(blocks, K)``.

    Correlations that few tokens show are mostly chance, and rounding that trusts them does
    worse than rounding to nearest on other tokens: the diagonal is raised by ``K / tokens``
    of itself, which is of the order of the sampling error.
    """
    if statistics.gram is None:
        return None
    gram, scale = moved((statistics.gram, scale), device)
    gram = (gram / scale.unsqueeze(1)).div_(scale.unsqueeze(2))
    gram.diagonal(dim1=1, dim2=2).mul_(1 + gram.shape[-1] / statistics.tokens)
    return gram
