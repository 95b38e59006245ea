"""HQQ: half-quadratic quantization of the weights alone, with float zero points."""

from __future__ import annotations

import torch
from common import Answer, Request, linears, run
from hqq.core.quantize import Quantizer
from torch import nn


@torch.no_grad()
def quantize(request: Request, model: nn.Module) -> Answer:
    weights = {}
    for name, layer in linears(model).items():
        group = None if request.group_size == -1 else request.group_size
        codes, meta = Quantizer.quantize(
            layer.weight,
            nbits=request.bits,
            channel_wise=True,
            group_size=group,
            optimize=True,
            axis=1,
            device="cpu",
            compute_dtype=torch.float32,
        )
        weights[f"{name}.weight"] = Quantizer.dequantize(codes, meta)
    return Answer(weights, zero_point_bits=16, samples=0)


run(quantize)
