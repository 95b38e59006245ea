"""What rounding one weight costs, on calibration statistics alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from awqc.findings import WeightError
from awqc.graph.linears import Linear
from awqc.numerics.decibel import decibel
from awqc.numerics.formats.base import QuantizedWeight
from awqc.numerics.quantizing import rows_at_once
from awqc.program import Program
from awqc.weights.moments import column_scale


def measure(
    program: Program, name: str, linear: Linear | None, quantized: QuantizedWeight
) -> WeightError:
    """The error of ``quantized`` in place of the float weight ``name``.

    ``linear`` is a product that reads the weight; None for an embedding table.
    """
    weight = program.weight(name)
    matrix = weight.reshape(weight.shape[0], -1)
    product = product_of(program, linear)

    def judge(rows: Tensor, block: int) -> float:
        return 0.0 if product is None else float(product(rows, block).square().sum())

    totals = torch.zeros(4, dtype=torch.float64)
    for block, start, stop in pieces(matrix, linear):
        kept = matrix[start:stop].float()
        error = quantized.some(start, stop).float() - kept
        sums = [kept.square().sum(), error.square().sum(), judge(kept, block), judge(error, block)]
        totals += torch.stack([torch.as_tensor(value, dtype=torch.float64) for value in sums])
    size, lost, signal, noise = totals.tolist()
    return WeightError(math.sqrt(lost / size) if size > 0 else 0.0, decibel(signal, noise))


Product = Callable[[Tensor, int], Tensor]
"""``(rows of one block, that block) -> (rows, samples)``: what they give on calibration data."""


def product_of(program: Program, linear: Linear | None) -> Product | None:
    """What rows of the weight of ``linear`` give on the calibration data; None without data."""
    statistics = None if linear is None else program.findings.statistics.get(linear.node.name)
    if linear is None or statistics is None:
        return None
    scale = column_scale(program, linear)
    return lambda rows, block: (rows / scale[block]) @ statistics.factor[block].T


def pieces(matrix: Tensor, linear: Linear | None) -> Iterator[tuple[int, int, int]]:
    """Cuts of the rows of ``matrix`` that cross no block: ``(block, start, stop)``."""
    blocks = 1 if linear is None else linear.blocks
    size, at_once = len(matrix) // blocks, rows_at_once(matrix)
    for block in range(blocks):
        for start in range(block * size, (block + 1) * size, at_once):
            yield block, start, min(start + at_once, (block + 1) * size)
