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

from awqc.artifacts.safetensors_file import Unwritten
from awqc.errors import ExportError, spelled
from awqc.export.serving import Held, ServingFormat
from awqc.numerics.formats.int_grid import Bits, IntGrid, zero_points
from awqc.numerics.packing import words_of

ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


class Awq(ServingFormat):
    """AutoAWQ "GEMM": 4 bits, zero points, everything else in float16."""

    name: ClassVar[str] = "awq"
    bits: ClassVar[tuple[Bits, ...]] = (4,)
    rows: ClassVar[int] = 8
    dtype: ClassVar[torch.dtype | None] = torch.float16

    def tensors(self, held: Held) -> dict[str, Unwritten]:
        """``qweight``, ``qzeros`` and ``scales``.

        Making the scales raises an `ExportError` where one is beyond float16.
        """
        rows, columns, groups = held.rows, held.columns, held.groups
        return {
            "qweight": Unwritten(
                torch.int32, (columns, rows // 8), lambda: pack_columns(held.weight().codes.t())
            ),
            "qzeros": Unwritten(
                torch.int32, (groups, rows // 8), lambda: pack_columns(_zeros(held).t())
            ),
            "scales": Unwritten(torch.float16, (groups, rows), lambda: _scales(held)),
        }

    def config(
        self, forms: Mapping[str, IntGrid], group_size: int, floats: Sequence[str]
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


def _zeros(held: Held) -> Tensor:
    return zero_points(held.weight())


def _scales(held: Held) -> Tensor:
    scales = held.weight().tensors["scale"].t().to(torch.float16)
    if not (scales.isfinite() & (scales > 0)).all():
        raise ExportError(
            "awq holds scales in float16, and one of them is beyond it; compile with "
            f"{spelled('dtype', 'float16')}, so that scales are chosen within it"
        )
    return scales.contiguous()


def pack_columns(codes: Tensor) -> Tensor:
    """4-bit codes ``(rows, columns)`` as int32 ``(rows, columns / 8)``, in `ORDER`."""
    lanes = codes.reshape(codes.shape[0], -1, 8)
    return words_of([lanes[..., place] for place in ORDER], 4)
