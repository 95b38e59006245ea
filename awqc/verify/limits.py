"""What must not be published."""

from __future__ import annotations

import math

import torch

from awqc.errors import VerificationError, spelled
from awqc.verify.trials import check_sizes
from awqc.verify.verification import Verification

EXACT_TOLERANCE = {torch.float32: 1e-3, torch.float16: 3e-2, torch.bfloat16: 6e-2}
"""Largest relative L2 difference between exported and quantized that counts as rounding.

In float32 two backends that add in another order differ by 1e-6 a product, which deep
networks amplify (7e-5 was seen on a 30-layer decoder); in half precision the unit of
rounding is 5e-4 (float16) and 4e-3 (bfloat16), times the same growth.
"""


def check_limits(
    verification: Verification, dtype: torch.dtype, max_loss: float | None, name: str
) -> None:
    """Refuse what must not be published.

    Raises:
        VerificationError: an exported form and the quantized program disagree, outputs are not
            finite, or the loss against the original, its ``rel``, is beyond ``max_loss``.
    """
    limit = EXACT_TOLERANCE[dtype]
    for found in verification.comparisons:
        check_sizes(name, f"the {found.form} form in {found.runtime}", found.sizes, limit)
        if found.exact["rel"] <= limit:
            continue
        raise VerificationError(
            f"{name}: the {found.form} form in {found.runtime} differs from the quantized model "
            f"by {found.exact['rel']:.2g} (relative, computed exactly); rounding explains "
            f"{limit:g}. If its files were changed since the compile, compile again; else please "
            "report it"
        )
    if verification.original is None:
        return
    loss = verification.original["rel"]
    if loss is None or not math.isfinite(loss):
        raise VerificationError(
            f"{name}: the quantized model gives NaN or infinite outputs where the original "
            f"does not; use more bits, or leave layers out with {spelled('exclude')}"
        )
    if max_loss is not None and loss > max_loss:
        raise VerificationError(
            f"{name}: the loss against the original is {loss:.4g} (relative output error), "
            f"{spelled('max_loss')} allows {max_loss:g}; use more bits, smaller groups, more "
            f"calibration data, or leave the worst layers out with {spelled('exclude')}"
        )
