"""Rounding each weight on what the already quantized part of the model gives it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.fx import Node

from awqc.errors import UsageError
from awqc.executor.replay import Values
from awqc.executor.run import Run
from awqc.machine.devices import CPU, moved
from awqc.numerics.quantizing import rows_at_once
from awqc.numerics.request import QuantizationSpec
from awqc.numerics.rounding.gram import conditioned
from awqc.program import Batch, Program
from awqc.weights.jobs import Job, QuantizedWeights, run_job
from awqc.weights.observing import observed_rows
from awqc.weights.rounding_proof import prove_against

DAMPING = 0.05


def round_in_sequence(
    program: Program,
    run: Run,
    jobs: Sequence[Job],
    done: QuantizedWeights,
    spec: QuantizationSpec,
) -> QuantizedWeights:
    """The weights of ``jobs``, rounded in the order of the graph.

    The float and the quantized model run side by side. A weight ``W`` that reads ``X`` in one
    and ``Z`` in the other is replaced by the ``V`` that makes ``V Z`` closest to ``W X``, and ``V``
    is rounded on the moments of ``Z``: so errors of the part before are corrected, not
    piled up. ``done`` are weights that are quantized already. Source: the sequential calibration
    of GPTQ, arXiv 2210.17323, section 3, with the asymmetric objective of GPTAQ, arXiv 2504.02692.

    Raises:
        UsageError: there are no calibration batches.
        InvariantError: a weight is much further from ``V`` than the nearest values of its grid.
    """
    if not run.batches:
        raise UsageError("sequential rounding needs calibration data, not statistics alone")
    by_node = {linear.node: job for job in jobs for linear in job.linears}
    made: QuantizedWeights = {}

    def before(node: Node, floats: Values, now: Values) -> dict[str, Tensor]:
        job = by_node[node]
        if job.linears[0].weight_name in made:
            return {}
        gram, correction = _moments(program, run.batches, job, floats, now)
        quantized = run_job(program, job, moved(gram, run.device), spec, correction)
        for linear in job.linears:
            weight = program.weight(linear.weight_name)
            wanted = linear.matrix(weight).float() @ correction
            at_once = rows_at_once(wanted[0], CPU)
            prove_against(linear.weight_name, wanted, gram, quantized[linear.weight_name], at_once)
        made.update(quantized)
        return {name: weight.dequantize() for name, weight in quantized.items()}

    weights = {name: weight.dequantize() for name, weight in done.items()}
    run.side_by_side(program, weights, list(by_node), before)
    return made


def _moments(
    program: Program,
    batches: Sequence[Batch],
    job: Job,
    floats: Sequence[Tensor],
    inputs: Sequence[Tensor],
) -> tuple[Tensor, Tensor]:
    """``Z^T Z / tokens`` and ``A = X^T Z (Z^T Z)^-1``, both ``(blocks, K, K)``.

    ``W A`` on ``Z`` comes closest to ``W`` on ``X``; ``A`` is damped toward the identity.
    """
    linear = job.linears[0]
    gram = torch.zeros(linear.blocks, linear.columns, linear.columns)
    drift, tokens = torch.zeros_like(gram), 0
    for batch, x, z in zip(batches, floats, inputs, strict=True):
        mask = batch[program.mask_input].bool() if program.mask_input else None
        wanted, seen = (observed_rows(linear, value, mask).float() for value in (x, z))
        gram += seen.transpose(1, 2) @ seen
        drift += (wanted - seen).transpose(1, 2) @ seen
        tokens += seen.shape[1]
    gram.diagonal(dim1=1, dim2=2).mul_(1 + gram.shape[-1] / max(tokens, 1))
    corrections = []
    for moments, change in zip(gram, drift, strict=True):
        size = moments.diagonal().mean().clamp(min=torch.finfo(torch.float32).tiny)
        solved = torch.linalg.solve(conditioned(moments, DAMPING), (change / size).T)
        corrections.append(torch.eye(len(moments)) + solved.T)
    return gram / max(tokens, 1), torch.stack(corrections)
