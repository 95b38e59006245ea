"""Matrix products at the processor's best speed, where a third decimal does not matter."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch

QUICK = "bf16"


def has_quick_products() -> bool:
    """Whether this processor multiplies bfloat16 matrices by instructions of its own."""
    return bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())


@contextmanager
def quick_products() -> Iterator[None]:
    """Multiply float32 matrices as bfloat16, with sums in float32, where the CPU gains by it.

    Each factor is rounded to 8 bits, 0.2 % of its value on average, which is a fortieth of what
    rounding to 4 bits does: enough for statistics and for gradients, not for comparing programs.
    Other processors, other devices and convolutions compute as always.
    """
    products = cast(Any, torch.backends.mkldnn).matmul  # torch declares no types for it
    before = products.fp32_precision
    if has_quick_products():
        products.fp32_precision = QUICK
    try:
        yield
    finally:
        products.fp32_precision = before
