"""Proof, by numbers alone, that rounding did what it is for.

What rounds a weight makes the model that everything afterwards is compared with, so a fault of it
looks like a loss. Here each row is measured against what needs no search: the values of the same
grid that are nearest to the float weights. The error of a row's product on the calibration data,
with what few tokens leave open, or of the row itself where there is none, must not be far beyond
theirs. Compensating and searching make it less. Rounding in sequence looks at other data and aims
at other weights, so these are what its results are measured against.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from awqc.errors import InvariantError
from awqc.graph.linears import Linear
from awqc.machine.devices import CPU
from awqc.numerics.formats.base import QuantizedWeight
from awqc.program import Program
from awqc.weights.rounding_error import doubt_of, product_of, rows_of_both

MOST_WEIGHT, MOST_ROW = 2.0, 8.0
"""Largest energy of the errors, over that of the nearest values: of a weight, and of a row."""
MOST_CHANCE = 2.0
"""Errors of a mean row's nearest values that each row may have besides: with few calibration tokens
the nearest values of some are exact by chance."""


def prove_rounding(
    program: Program,
    name: str,
    linear: Linear | None,
    quantized: QuantizedWeight,
    device: torch.device = CPU,
) -> None:
    """Check ``quantized`` against the float weight ``name``, row by row, on ``device``.

    ``linear`` is a product that reads the weight; None for an embedding table.

    Raises:
        InvariantError: names the weight and the row.
    """
    judges = [product_of(program, linear, device), doubt_of(program, linear, device)]
    # Made at once: small tensors that stay between large ones that go would keep memory in pieces.
    errors, least = (torch.empty(quantized.shape[0], dtype=torch.float64) for _ in range(2))
    start = 0
    for block, kept, part in rows_of_both(program, name, linear, quantized, device):
        held = part.to(torch.float32)  # where its grid is exact
        stop = start + len(kept)
        for found, values in (
            (errors, held.dequantize()),
            (least, nearest_values(held, kept)),
        ):
            error = values - kept
            parts = [judge(error, block) for judge in judges if judge is not None] or [error]
            found[start:stop] = sum_of_squares(parts)
        start = stop
    check_rows(name, errors, least)


def prove_against(
    name: str, wanted: Tensor, gram: Tensor, quantized: QuantizedWeight, at_once: int
) -> None:
    """Check ``quantized`` against other weights than those of a program, on other moments.

    Args:
        name: of the weight.
        wanted: what was rounded, float32 ``(blocks, rows, K)``.
        gram: moments of what it is multiplied with, ``(blocks, K, K)``.
        quantized: the result, whose rows are those of all blocks.
        at_once: rows that are compared at once.

    Raises:
        InvariantError: names the weight and the row.
    """
    errors, least, size = list[Tensor](), list[Tensor](), wanted.shape[1]
    for block, (matrix, moments) in enumerate(zip(wanted, gram, strict=True)):
        for start in range(0, size, at_once):
            rows = matrix[start : start + at_once]
            first = block * size + start
            held = quantized.part(first, first + len(rows)).to(torch.float32)
            for found, values in (
                (errors, held.dequantize().reshape(rows.shape)),
                (least, nearest_values(held, rows)),
            ):
                error = (values - rows).double()
                found.append((error @ moments.double()).mul_(error).sum(-1))
    check_rows(name, torch.cat(errors), torch.cat(least))


def sum_of_squares(parts: Sequence[Tensor]) -> Tensor:
    """Of each row, over all ``parts``, in float64."""
    norms = [torch.linalg.vector_norm(part, dim=-1, dtype=torch.float64) for part in parts]
    return torch.stack(norms).square().sum(0)


def nearest_values(quantized: QuantizedWeight, matrix: Tensor) -> Tensor:
    """The values of the grids of ``quantized`` that are nearest to the rows of ``matrix``.

    A value is affine in its code, so two of them tell the grid: those of the first code, and of
    all bits set.
    """
    roles = quantized.format.code_roles
    ends = []
    for bits in (0x00, 0xFF):
        end = {role: torch.full_like(quantized.tensors[role], bits) for role in roles}
        ends.append(quantized.with_tensors(end))
    last = float(ends[1].codes.max())
    low, high = (end.dequantize().reshape(matrix.shape) for end in ends)
    step = high.div_(last).sub_(low / last)  # divided first: their distance may be no number
    codes = torch.where(step == 0, 0, (matrix / step).sub_(low / step))
    return codes.round_().clamp_(0, quantized.format.levels - 1).mul_(step).add_(low)


def check_rows(name: str, errors: Tensor, least: Tensor) -> None:
    """Refuse a weight that was not rounded as it should be.

    Args:
        name: of the weight.
        errors: energy of each row's error.
        least: the same of the nearest values.

    Raises:
        InvariantError: names the weight and the row.
    """
    whole = float(errors.sum()), float(least.sum())
    if whole[0] > MOST_WEIGHT * whole[1] + torch.finfo(torch.float32).tiny:
        raise InvariantError(
            f"{name}: rounding leaves {whole[0] / max(whole[1], 1e-300):.3g} times the error of "
            f"the nearest values on its grid; {MOST_WEIGHT:g} is allowed. Please report it"
        )
    allowed = MOST_ROW * least + MOST_CHANCE * whole[1] / len(least)
    worst = int((errors - allowed).argmax())
    if errors[worst] > allowed[worst]:
        raise InvariantError(
            f"{name}: rounding leaves row {worst} with {float(errors[worst] / allowed[worst]):.3g} "
            f"times the error that its grid explains. Please report it"
        )
