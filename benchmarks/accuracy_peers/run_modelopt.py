"""NVIDIA ModelOpt: int4 AWQ, without (lite) and with clip (full); symmetric, as its presets are.

Where no norm can take a scale it stays a multiply before the linear layer. Each linear runs 11
times a batch: fewer calibration sequences than the others get.
"""

from __future__ import annotations

import copy
from typing import Any

import modelopt.torch.quantization as mtq
import torch
from common import Answer, Request, effective_weight, linears, run
from torch import nn

SEQUENCES = 16


def configuration(request: Request) -> dict[str, Any]:
    """The preset with the request's bits, groups and method."""
    chosen: dict[str, Any] = copy.deepcopy(dict(mtq.INT4_AWQ_CFG))
    chosen["algorithm"] = {"method": request.method}
    cfg = {"num_bits": request.bits}
    if request.group_size == -1:
        cfg["axis"] = 0
    else:
        cfg["block_sizes"] = {-1: request.group_size}
    chosen["quant_cfg"] = [
        {"quantizer_name": "*", "enable": False},
        {"quantizer_name": "*weight_quantizer", "cfg": cfg},
        {"quantizer_name": "*input_quantizer", "enable": False},
        {"quantizer_name": "*lm_head*", "enable": False},
    ]
    return chosen


@torch.no_grad()
def quantize(request: Request, model: nn.Module) -> Answer:
    columns = {name: layer.in_features for name, layer in linears(model).items()}
    few = request.first(SEQUENCES)

    def forward(module: nn.Module) -> None:
        for batch in few.batches():
            module(**batch)

    model = mtq.quantize(model, configuration(request), forward)
    weights, scales = {}, 0
    for name, width in columns.items():
        layer = model.get_submodule(name)
        weights[f"{name}.weight"] = effective_weight(layer, width)
        scale = getattr(layer.input_quantizer, "pre_quant_scale", None)
        scales += 0 if scale is None else scale.numel()
    return Answer(weights, zero_point_bits=0, samples=len(few.ids), runtime_scales=scales)


run(quantize)
