"""GPTQModel: GPTQ, and its AWQ.

``gptq_v2`` is its format without an offset of one in the stored zero points.
"""

from __future__ import annotations

import os

# Its thread pools ask for two workers at least, whatever the machine has to give.
os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")

from common import Answer, Request, beside, effective_weight, linears, run
from gptqmodel import GPTQModel, QuantizeConfig
from torch import nn

SEQUENCES = {"gptq": 64, "awq": 16}


def quantize(request: Request, model: nn.Module) -> Answer:
    few = request.first(SEQUENCES[request.method])
    configuration = QuantizeConfig(
        bits=request.bits,
        group_size=request.group_size,
        sym=False,
        quant_method=request.method,
        format="gptq_v2" if request.method == "gptq" else "gemm",
        device="cpu",
        offload_to_disk=False,
    )
    quantizer = GPTQModel.load(str(request.folder), configuration, dtype="float32")
    rows = [{"input_ids": ids.tolist(), "attention_mask": [1] * len(ids)} for ids in few.ids]
    quantizer.quantize(rows, batch_size=1, calibration_sort=None)
    columns = {name: layer.in_features for name, layer in linears(model).items()}
    weights = beside(quantizer.model, set(model.state_dict()))
    for name, width in columns.items():
        weights[f"{name}.weight"] = effective_weight(quantizer.model.get_submodule(name), width)
    return Answer(weights, zero_point_bits=request.bits, samples=len(rows))


run(quantize)
