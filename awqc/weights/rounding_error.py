"""What rounding one weight costs, on calibration statistics alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from awqc.findings import WeightError
from awqc.graph.linears import Linear
from awqc.machine.devices import CPU, moved
from awqc.numerics.decibel import decibel
from awqc.numerics.formats.base import QuantizedWeight
from awqc.numerics.quantizing import rows_at_once
from awqc.program import Program
from awqc.weights.moments import column_scale


def measure(
    program: Program,
    name: str,
    linear: Linear | None,
    quantized: QuantizedWeight,
    device: torch.device = CPU,
) -> WeightError:
    """The error of ``quantized`` in place of the float weight ``name``, computed on ``device``.

    ``linear`` is a product that reads the weight; None for an embedding table.
    """
    product = product_of(program, linear, device)

    def judge(rows: Tensor, block: int) -> float:
        return 0.0 if product is None else float(product(rows, block).square().sum())

    totals = torch.zeros(4, dtype=torch.float64)
    for block, kept, held in rows_of_both(program, name, linear, quantized, device):
        error = held.dequantize().float() - kept
        sums: list[Tensor | float] = [kept.square().sum(), error.square().sum()]
        sums += [judge(kept, block), judge(error, block)]
        totals += torch.tensor([float(value) for value in sums], dtype=torch.float64)
    size, lost, signal, noise = totals.tolist()
    return WeightError(math.sqrt(lost / size) if size > 0 else 0.0, decibel(signal, noise))


Product = Callable[[Tensor, int], Tensor]
"""``(rows of one block, that block) -> (rows, samples)``: what they give on calibration data."""


def product_of(
    program: Program, linear: Linear | None, device: torch.device = CPU
) -> Product | None:
    """What rows of the weight of ``linear`` give on the calibration data; None without data.

    It is computed on ``device``, where the rows are.
    """
    statistics = None if linear is None else program.findings.statistics.get(linear.node.name)
    if linear is None or statistics is None:
        return None
    scale, factor = moved((column_scale(program, linear), statistics.factor), device)
    turned = (factor / scale.unsqueeze(1)).mT
    return lambda rows, block: rows @ turned[block]


def doubt_of(program: Program, linear: Linear | None, device: torch.device = CPU) -> Product | None:
    """What rows may give beyond that, since calibration saw few tokens: to be squared and added.

    It is what `awqc.weights.moments.scaled_gram` raises the diagonal by: ``K / tokens`` of the
    energy of each column by itself. ``(rows, K)``.
    """
    statistics = None if linear is None else program.findings.statistics.get(linear.node.name)
    if linear is None or statistics is None:
        return None
    scale, factor = moved((column_scale(program, linear), statistics.factor), device)
    size = factor.square().sum(1).mul(linear.columns / statistics.tokens).sqrt() / scale
    return lambda rows, block: rows * size[block]


def rows_of_both(
    program: Program,
    name: str,
    linear: Linear | None,
    quantized: QuantizedWeight,
    device: torch.device,
) -> Iterator[tuple[int, Tensor, QuantizedWeight]]:
    """Rows of the weight ``name``, float32, and the same rows of ``quantized``, on ``device``.

    A few at a time: ``(block, rows, quantized rows)``.
    """
    weight = program.weight(name)
    matrix = weight.reshape(weight.shape[0], -1)
    for block, start, stop in _pieces(matrix, linear, device):
        part = quantized.part(start, stop)
        kept, tensors = moved((matrix[start:stop], dict(part.tensors)), device)
        yield block, kept.float(), part.with_tensors(tensors)


def _pieces(
    matrix: Tensor, linear: Linear | None, device: torch.device
) -> Iterator[tuple[int, int, int]]:
    """Cuts of the rows of ``matrix`` that cross no block: ``(block, start, stop)``."""
    blocks = 1 if linear is None else linear.blocks
    size, at_once = len(matrix) // blocks, rows_at_once(matrix, device)
    for block in range(blocks):
        for start in range(block * size, (block + 1) * size, at_once):
            yield block, start, min(start + at_once, (block + 1) * size)
