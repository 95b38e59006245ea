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

from awqc.artifacts.safetensors_file import Unwritten
from awqc.export.serving import Held, ServingFormat
from awqc.numerics.formats.int_grid import Bits, IntGrid, zero_points
from awqc.numerics.packing import words_of


class CompressedTensors(ServingFormat):
    """ "pack-quantized": 4 and 8 bits, symmetric or with zero points."""

    name: ClassVar[str] = "compressed-tensors"
    bits: ClassVar[tuple[Bits, ...]] = (4, 8)
    rows: ClassVar[int] = 1

    def tensors(self, held: Held) -> dict[str, Unwritten]:
        """``weight_packed``, ``weight_scale``, ``weight_shape`` and, if any, the zero points."""
        rows, columns, bits = held.rows, held.columns, held.form.bits
        made = {
            "weight_packed": Unwritten(
                torch.int32,
                (rows, -(-columns * bits // 32)),
                lambda: pack_words(held.weight().codes, bits),
            ),
            "weight_scale": Unwritten(
                held.source.tensors["scale"].dtype,
                (rows, held.groups),
                lambda: held.weight().tensors["scale"],
            ),
            "weight_shape": Unwritten.of(torch.tensor([rows, columns], dtype=torch.int64)),
        }
        if not held.form.symmetric:
            made["weight_zero_point"] = Unwritten(
                torch.int32,
                (-(-rows * bits // 32), held.groups),
                lambda: pack_words(zero_points(held.weight()).t(), bits).t(),
            )
        return made

    def config(
        self, forms: Mapping[str, IntGrid], group_size: int, floats: Sequence[str]
    ) -> dict[str, Any]:
        """A group for each width; its linears are named where there are several."""
        kinds = {name: (form.bits, form.symmetric) for name, form in forms.items()}
        widths = sorted(set(kinds.values()))
        groups = {}
        for index, (bits, symmetric) in enumerate(widths):
            own = [name for name, kind in kinds.items() if kind == (bits, symmetric)]
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
    padded = torch.nn.functional.pad(codes, (0, -codes.shape[1] % lanes))
    grouped = padded.reshape(codes.shape[0], -1, lanes)
    return words_of(list(grouped.unbind(-1)), bits)
