"""The format ``awq``: AutoAWQ's "GEMM" layout, which vLLM and others serve.

For ``linear(x, W)`` with W ``(N, K)``, eight 4-bit codes of neighbouring output channels
share an int32, channel ``8 c + ORDER[i]`` in bits ``4 i`` to ``4 i + 3``::

    qweight  int32 (K, N / 8)      qzeros  int32 (K / group, N / 8)
    scales   float16 (K / group, N)
    W[n, k] = (qweight[k, n] - qzeros[k // group, n]) * scales[k // group, n]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from awqc.errors import ExportError, spelled
from awqc.export.serving import ServingFormat
from awqc.numerics.formats.base import QuantizedWeight
from awqc.numerics.formats.int_grid import Bits, zero_points

ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


class Awq(ServingFormat):
    """AutoAWQ "GEMM": 4 bits, zero points, everything else in float16."""

    name: ClassVar[str] = "awq"
    bits: ClassVar[tuple[Bits, ...]] = (4,)
    rows: ClassVar[int] = 8
    dtype: ClassVar[torch.dtype | None] = torch.float16

    def tensors(self, weight: QuantizedWeight) -> dict[str, Tensor]:
        """``qweight``, ``qzeros`` and ``scales``.

        Raises:
            ExportError: a scale is beyond float16.
        """
        scales = weight.tensors["scale"].t().to(torch.float16)
        if not (scales.isfinite() & (scales > 0)).all():
            raise ExportError(
                "awq holds scales in float16, and one of them is beyond it; compile with "
                f"{spelled('dtype', 'float16')}, so that scales are chosen within it"
            )
        return {
            "qweight": pack_columns(weight.codes.t()),
            "qzeros": pack_columns(zero_points(weight).t()),
            "scales": scales.contiguous(),
        }

    def config(
        self, weights: Mapping[str, QuantizedWeight], group_size: int, floats: Sequence[str]
    ) -> dict[str, Any]:
        """As AutoAWQ writes it."""
        return {
            "quant_method": "awq",
            "bits": 4,
            "group_size": group_size,
            "zero_point": True,
            "version": "gemm",
            "modules_to_not_convert": list(floats) or None,
        }


def pack_columns(codes: Tensor) -> Tensor:
    """4-bit codes ``(rows, columns)`` as int32 ``(rows, columns / 8)``, in `ORDER`."""
    lanes = codes.to(torch.int64).reshape(codes.shape[0], -1, 8)[..., list(ORDER)]
    words = (lanes << torch.arange(0, 32, 4)).sum(dim=-1)
    # The upper half of uint32 are the negative numbers of int32.
    return torch.where(words >= 2**31, words - 2**32, words).to(torch.int32)
