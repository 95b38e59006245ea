"""AMD Quark: AWQ, GPTQ and Qronos, with the template that it has for the model's architecture."""

from __future__ import annotations

import torch
from common import Answer, NotOfferedError, Request, beside, effective_weight, linears, run
from quark.torch import LLMTemplate, ModelQuantizer
from torch import nn

SEQUENCES = {"awq": 16, "gptq": 64, "qronos": 64}


def quantize(request: Request, model: nn.Module) -> Answer:
    if request.bits != 4:
        raise NotOfferedError(f"its template has no unsigned {request.bits}-bit scheme")
    columns = {name: layer.in_features for name, layer in linears(model).items()}
    few = request.first(SEQUENCES[request.method])
    width = "per_channel" if request.group_size == -1 else request.group_size
    template = LLMTemplate.get(model.config.model_type)
    configuration = template.get_config(
        scheme=f"uint4_wo_{width}", algorithm=request.method, exclude_layers=["lm_head"]
    )
    names = set(model.state_dict())
    quantizer = ModelQuantizer(configuration)
    # Its loader gives token ids alone, a batch at a time.
    model = quantizer.quantize_model(model, torch.utils.data.DataLoader(few.ids, batch_size=1))
    model = quantizer.freeze(model)
    weights = beside(model, names)
    for name, width in columns.items():
        weights[f"{name}.weight"] = effective_weight(model.get_submodule(name), width)
    return Answer(weights, zero_point_bits=request.bits, samples=len(few.ids))


run(quantize)
