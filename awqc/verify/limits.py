"""What must not be published."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from awqc.errors import VerificationError, spelled
from awqc.verify.trials import check_sizes
from awqc.verify.verification import Verification

EXACT_TOLERANCE = {torch.float32: 1e-3, torch.float16: 3e-2, torch.bfloat16: 6e-2}
"""Largest relative difference between exported and quantized that counts as rounding.

In float32 two backends that add in another order differ by 1e-6 a product, which deep
networks amplify (7e-5 was seen on a 30-layer decoder); in half precision the unit of
rounding is 5e-4 (float16) and 4e-3 (bfloat16), times the same growth. It holds for each output,
and for each row and column of it, as `awqc.verify.gap` measures them.
"""

UNEQUAL = {torch.float32: 0.01, torch.float16: 0.05, torch.bfloat16: 0.05}
"""Largest share of integers and booleans that may differ between exported and quantized.

They come from comparing or rounding floats; where two floats are equal but for rounding, either
answer is right. In outputs of fewer elements than a hundred (twenty) all must be equal.
"""

HARDLY = 0.01
"""How much of its size an output varies by at most where a message says that it hardly does."""


def check_limits(
    verification: Verification, dtype: torch.dtype, max_loss: float, name: str
) -> None:
    """Refuse what must not be published.

    Raises:
        VerificationError: an output of an exported form and of the quantized program disagree,
            an output says nothing or is not finite, or its loss against the original, its
            ``rel``, is beyond ``max_loss``.
    """
    if verification.original is not None:
        check_loss(verification.original["outputs"], max_loss, name)
    for found in verification.comparisons:
        form = f"the {found.form} form in {found.runtime}"
        _check_compared(found.exact["outputs"], f"{name}: {form}")
        check_near(found.exact["outputs"], dtype, name, form)
        check_sizes(name, form, found.sizes, EXACT_TOLERANCE[dtype])


def check_near(
    outputs: Mapping[str, Mapping[str, Any]], dtype: torch.dtype, name: str, form: str
) -> None:
    """Refuse outputs of ``form`` that are not the quantized program's; see `check_limits`."""
    for output, gap in outputs.items():
        for where, found, limit in _measures(gap, dtype):
            if found <= limit:  # NaN is beyond any limit
                continue
            raise VerificationError(
                f"{name}: {form} differs from the quantized model in {where} {output} by "
                f"{found:.2g} (relative, computed exactly); rounding explains {limit:.2g}. If "
                "its files were changed since the compile, compile again; else please report it"
            )


def _measures(gap: Mapping[str, Any], dtype: torch.dtype) -> list[tuple[str, float, float]]:
    """What is measured of an output, with the limit of each."""
    if "differing" in gap:
        return [("the whole numbers of output", gap["differing"], UNEQUAL[dtype])]
    limit = EXACT_TOLERANCE[dtype]
    parts = [("a row of output", gap["row"]), ("a column of output", gap["column"])]
    return [
        ("output", gap["rel"], limit + gap["rounding"]),
        *((where, found, limit) for where, found in parts if found is not None),
    ]


def check_loss(outputs: Mapping[str, Mapping[str, Any]], max_loss: float, name: str) -> None:
    """Refuse outputs that have lost too much against the original's; see `check_limits`."""
    _check_compared(outputs, name)
    for output, gap in outputs.items():
        loss = gap["rel"]
        if loss == float("inf"):
            raise VerificationError(
                f"{name}: the quantized model gives NaN or infinite values in output {output} "
                "where the original does not, or values where the original has zeros; use more "
                f"bits, or leave layers out with {spelled('exclude')}"
            )
        if loss <= max_loss:
            continue
        raise VerificationError(
            f"{name}: the loss against the original is {loss:.4g} in output {output} (error over "
            f"the output's variation), {spelled('max_loss')} allows {max_loss:g}"
            f"{_hardly_varying(gap)}; use more bits, "
            "smaller groups, more calibration data, or leave the worst layers out with "
            f"{spelled('exclude')}; {spelled('max_loss', 'inf')} publishes whatever the loss"
        )


def _hardly_varying(gap: Mapping[str, Any]) -> str:
    """That an output varies by less than a little of its size, where that is why so much is lost.

    ``|error| / |output|`` is ``sqrt(2 - 2 cosine)`` while it is small.
    """
    share = math.sqrt(max(2 - 2 * gap["cosine"], 0)) if gap.get("cosine") is not None else 1.0
    if share > HARDLY * gap["rel"]:
        return ""
    return (
        f", and the output hardly varies: by {share / gap['rel']:.1g} of its size on this data, as "
        "where weights are random or samples alike, and most of that is lost to any rounding"
    )


def _check_compared(outputs: Mapping[str, Mapping[str, Any]], where: str) -> None:
    """Refuse outputs that say nothing on the data."""
    if not outputs:
        raise VerificationError(f"{where} has no output: nothing was compared")
    for output, gap in outputs.items():
        if not gap["compared"]:
            raise VerificationError(
                f"{where}: output {output} holds no number other than zero or NaN on the held-out "
                f"data: nothing was compared; give data that the model answers, with "
                f"{spelled('calib')}"
            )
