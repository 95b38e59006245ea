"""What rounding one weight costs, on calibration statistics alone."""

from __future__ import annotations

import torch
from torch import Tensor

from awqc.decibel import decibel
from awqc.linears import Linear
from awqc.program import Program, WeightError
from awqc.qparams import QuantizedWeight


def measure(
    program: Program, name: str, linear: Linear | None, quantized: QuantizedWeight
) -> WeightError:
    """The error of ``quantized`` in place of the float weight ``name``.

    ``linear`` is a product that reads the weight; None for an embedding table.
    """
    weight = program.weight(name).float()
    error = quantized.dequantize().float() - weight
    size = float(weight.norm())
    output = None
    if linear is not None:
        output = decibel(_energy(program, linear, weight), _energy(program, linear, error))
    return WeightError(float(error.norm()) / size if size > 0 else 0.0, output)


def _energy(program: Program, linear: Linear, weight: Tensor) -> float | None:
    """``|W X^T|^2 / tokens`` on the calibration statistics, if there are any.

    Statistics were taken before scales went in; the search's scales are undone.
    """
    statistics = program.statistics.get(linear.node.name)
    if statistics is None:
        return None
    matrix = linear.matrix(weight.float())
    for site in program.sites:
        found = program.scales.get(site.name)
        for reader in site.readers if site.status in ("folded", "runtime") else ():
            if reader.node == linear.node.name and found is not None:
                padded = torch.cat([found.scale, torch.ones(1)])
                matrix = matrix / padded[reader.classes[linear.column_channels()]].unsqueeze(1)
    return float((matrix @ statistics.factor.transpose(1, 2)).square().sum())
