"""What a product reads, as its weight sees it after scales went in.

Statistics are taken once, before scales are folded; a folded scale divides the activation's
channels and multiplies the weight's columns.
"""

from __future__ import annotations

import torch
from torch import Tensor

from awqc.linears import Linear
from awqc.program import Program
from awqc.statistics import Statistics


def column_scale(program: Program, linear: Linear) -> Tensor:
    """What the columns of ``linear``'s weight were multiplied by: ``(blocks, columns)``."""
    factor = torch.ones(linear.blocks, linear.columns)
    for site in program.sites:
        found = program.scales.get(site.name)
        if found is None or site.status not in ("folded", "runtime"):
            continue
        for reader in site.readers:
            if reader.node == linear.node.name:
                padded = torch.cat([found.scale, torch.ones(1)])
                factor = factor * padded[reader.classes[linear.column_channels()]]
    return factor


def scaled_gram(statistics: Statistics, scale: Tensor) -> Tensor | None:
    """The gram ``(blocks, K, K)`` of the activation divided by ``scale`` ``(blocks, K)``."""
    if statistics.gram is None:
        return None
    return statistics.gram / scale.unsqueeze(1) / scale.unsqueeze(2)


def energy(statistics: Statistics, matrix: Tensor, scale: Tensor) -> float:
    """``|W X^T|^2 / tokens`` for ``W`` ``(blocks, rows, K)``, whose columns hold ``scale``."""
    plain = matrix / scale.unsqueeze(1)
    return float((plain @ statistics.factor.transpose(1, 2)).square().sum())
