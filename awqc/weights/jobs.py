"""Which weights are rounded together, and on what moments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from awqc.graph.linears import Linear, find_linears
from awqc.machine.devices import CPU, moved
from awqc.numerics.formats.base import QuantizedWeight, WeightFormat
from awqc.numerics.quantizing import quantize, quantized_weight, whole_range
from awqc.numerics.request import QuantizationSpec
from awqc.numerics.rounding.methods import round_matrix
from awqc.numerics.rounding.ranges import least_error
from awqc.program import Program
from awqc.weights.moments import column_scale, scaled_gram

QuantizedWeights = dict[str, QuantizedWeight]
"""Quantized weights by name."""


@dataclass(frozen=True)
class Job:
    """Weights that read the same thing, cut alike.

    Attributes:
        linears: one for each weight; the products that read them.
        format: of all.
        scale: ``(blocks, columns)``, what scaling multiplied their columns by.
    """

    linears: tuple[Linear, ...]
    format: WeightFormat
    scale: Tensor

    def gram(self, program: Program, device: torch.device) -> Tensor:
        """Moments of what they read, as calibration saw it: ``(blocks, K, K)``, on ``device``."""
        statistics = program.findings.statistics[self.linears[0].node.name]
        found = scaled_gram(statistics, self.scale, device)
        assert found is not None
        return found


def find_jobs(program: Program, formats: Mapping[str, WeightFormat]) -> list[Job]:
    """The weights for which compensating errors can gain something.

    Left out, and so rounded to nearest: weights that calibration did not see, embedding
    tables, weights of several products or programs, and formats so fine that there is next to
    nothing to gain.
    """
    found: dict[tuple[object, ...], Job] = {}
    for linear in find_linears(program.graph):
        how = formats.get(linear.weight_name)
        statistics = program.findings.statistics.get(linear.node.name)
        if how is None or how.fine or statistics is None or statistics.gram is None:
            continue
        if len(linear.weight.users) > 1 or linear.weight_name in program.shared:
            continue
        scale = column_scale(program, linear)
        key = (id(statistics), how, hash(scale.numpy().tobytes()))
        before = found[key].linears if key in found else ()
        found[key] = Job((*before, linear), how, scale)
    return list(found.values())


def run_job(
    program: Program,
    job: Job,
    gram: Tensor,
    spec: QuantizationSpec,
    correction: Tensor | None = None,
) -> QuantizedWeights:
    """The weights of ``job`` by name, quantized with one pass over their columns.

    It is done where ``gram`` lies.
    ``gram`` ``(blocks, K, K)`` holds the moments of what they read; ``correction``, of the same
    shape, is multiplied to the weights from the right before they are rounded.
    """
    weights = [program.weight(linear.weight_name) for linear in job.linears]
    matrices = [
        moved(linear.matrix(weight), gram.device).float()
        for linear, weight in zip(job.linears, weights, strict=True)
    ]
    if correction is not None:
        matrices = [matrix @ moved(correction, gram.device) for matrix in matrices]
    sizes = [matrix.shape[1] for matrix in matrices]
    together = torch.cat(matrices, dim=1)
    del matrices  # as large as all of them
    blocks = [
        round_matrix(matrix, moments, job.format, program.scale_dtype, spec)
        for matrix, moments in zip(together, gram, strict=True)
    ]
    shares = {
        role: torch.stack([block[role].cpu() for block in blocks]).split(sizes, dim=1)
        for role in blocks[0]
    }
    return {
        linear.weight_name: quantized_weight(
            weights[i],
            {role: share[i].flatten(0, 1).clone() for role, share in shares.items()},
            job.format,
        )
        for i, linear in enumerate(job.linears)
    }


def round_to_nearest(
    program: Program,
    name: str,
    form: WeightFormat,
    device: torch.device = CPU,
    search: bool = False,
) -> QuantizedWeight:
    """The weight ``name``, each value on its own, computed on ``device``.

    ``search`` the ranges of groups for that.
    """
    weight = program.weight(name)
    find = least_error if search and not form.fine else whole_range
    return quantize(weight, weight.shape[0], form, program.scale_dtype, device, find)
