"""torchao: AWQ (a run-time multiply of its own before every linear), HQQ, and AWQ's base.

4 bits are the int4 weight-only tensor for CPUs, as the AWQ example takes it, whose kernel is fast
in bfloat16 only; other widths have no tensor that takes a scale for the activations. The observer
keeps all inputs and runs each linear twice for each of 20 candidates: fewer calibration
sequences than the others get.
"""

from __future__ import annotations

import torch
from common import Answer, NotOfferedError, Request, effective_weight, linears, run
from torch import nn
from torchao.prototype.awq import AWQConfig
from torchao.prototype.quantization.int4 import PrototypeInt4WeightOnlyConfig
from torchao.quantization import quantize_
from torchao.quantization.quantize_.workflows import Int4ChooseQParamsAlgorithm

SEQUENCES = 8


@torch.no_grad()
def quantize(request: Request, model: nn.Module) -> Answer:
    if request.bits != 4:
        raise NotOfferedError(f"no {request.bits}-bit weight tensor takes AWQ's scale")
    layers = {name: layer.in_features for name, layer in linears(model).items()}

    def chosen(module: nn.Module, name: str) -> bool:
        return name in layers

    algorithm = Int4ChooseQParamsAlgorithm.TINYGEMM
    if request.method == "hqq":
        algorithm = Int4ChooseQParamsAlgorithm.HQQ
    base = PrototypeInt4WeightOnlyConfig(
        group_size=request.group_size, int4_choose_qparams_algorithm=algorithm
    )
    scales = samples = 0
    if request.method == "awq":
        few = request.first(SEQUENCES)
        samples = len(few.ids)
        quantize_(model, AWQConfig(base, step="prepare"), filter_fn=chosen)
        for batch in few.batches():
            model(**batch)
        quantize_(model, AWQConfig(base, step="convert"), filter_fn=chosen)
        scales = sum(layers.values())
    else:
        quantize_(model, base, filter_fn=chosen)
    weights = {
        f"{name}.weight": effective_weight(model.get_submodule(name), columns, torch.bfloat16)
        for name, columns in layers.items()
    }
    return Answer(weights, zero_point_bits=16, samples=samples, runtime_scales=scales)


run(quantize, torch.bfloat16)
