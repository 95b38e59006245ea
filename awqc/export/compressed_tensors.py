"""The format ``compressed-tensors``: "pack-quantized" checkpoints of the vLLM project.

For ``linear(x, W)`` with W ``(N, K)``, codes lie in int32 words, the first in the lowest
bits::

    weight_packed      int32 (N, K * bits / 32)
    weight_scale       float (N, K / group)
    weight_zero_point  int32 (N * bits / 32, K / group), packed down the rows
    weight_shape       int64 [N, K]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from awqc.export.serving import ServingFormat, kind
from awqc.numerics.formats.base import QuantizedWeight
from awqc.numerics.formats.int_grid import Bits, zero_points


class CompressedTensors(ServingFormat):
    """ "pack-quantized": 4 and 8 bits, symmetric or with zero points."""

    name: ClassVar[str] = "compressed-tensors"
    bits: ClassVar[tuple[Bits, ...]] = (4, 8)
    rows: ClassVar[int] = 1

    def tensors(self, weight: QuantizedWeight) -> dict[str, Tensor]:
        """``weight_packed``, ``weight_scale``, ``weight_shape`` and, if any, the zero points."""
        (bits, symmetric), codes = kind(weight), weight.codes
        made = {
            "weight_packed": pack_words(codes, bits),
            "weight_scale": weight.tensors["scale"].contiguous(),
            "weight_shape": torch.tensor(codes.shape, dtype=torch.int64),
        }
        if not symmetric:
            zeros = pack_words(zero_points(weight).t(), bits)
            made["weight_zero_point"] = zeros.t().contiguous()
        return made

    def config(
        self, weights: Mapping[str, QuantizedWeight], group_size: int, floats: Sequence[str]
    ) -> dict[str, Any]:
        """A group for each width; its linears are named where there are several."""
        widths = sorted({kind(weight) for weight in weights.values()})
        groups = {}
        for index, (bits, symmetric) in enumerate(widths):
            own = [name for name, w in weights.items() if kind(w) == (bits, symmetric)]
            groups[f"group_{index}"] = {
                "targets": ["Linear"] if len(widths) == 1 else own,
                "weights": {
                    "num_bits": bits,
                    "type": "int",
                    "symmetric": symmetric,
                    "strategy": "group",
                    "group_size": group_size,
                    "dynamic": False,
                },
                "input_activations": None,
                "output_activations": None,
                "format": "pack-quantized",
            }
        return {
            "quant_method": "compressed-tensors",
            "format": "pack-quantized",
            "quantization_status": "compressed",
            "config_groups": groups,
            "ignore": list(floats),
        }


def pack_words(codes: Tensor, bits: int) -> Tensor:
    """Codes ``(rows, columns)`` as int32 ``(rows, ceil(columns * bits / 32))``."""
    lanes = 32 // bits
    padded = torch.nn.functional.pad(codes.to(torch.int64), (0, -codes.shape[1] % lanes))
    grouped = padded.reshape(codes.shape[0], -1, lanes)
    words = (grouped << torch.arange(0, 32, bits)).sum(dim=-1)
    return torch.where(words >= 2**31, words - 2**32, words).to(torch.int32)
