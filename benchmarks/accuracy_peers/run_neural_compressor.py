"""Intel neural-compressor: AWQ with clip, TEQ (trained scales), GPTQ, on torch."""

from __future__ import annotations

from common import Answer, Request, beside, effective_weight, linears, run
from neural_compressor.torch.quantization import (
    AWQConfig,
    GPTQConfig,
    TEQConfig,
    convert,
    prepare,
)
from torch import nn

SEQUENCES = 16
CONFIGS = {"awq": AWQConfig, "teq": TEQConfig, "gptq": GPTQConfig}


def quantize(request: Request, model: nn.Module) -> Answer:
    names = set(model.state_dict())
    columns = {name: layer.in_features for name, layer in linears(model).items()}
    few = request.first(SEQUENCES)
    configuration = CONFIGS[request.method](
        bits=request.bits, use_sym=False, group_size=request.group_size
    )
    batches = list(few.batches())

    def calibrate(module: nn.Module) -> None:
        for batch in batches:
            module(**batch)

    model = prepare(model, configuration, example_inputs=batches[0]["input_ids"])
    calibrate(model)
    model = convert(model)
    weights = beside(model, names)
    for name, width in columns.items():
        weights[f"{name}.weight"] = effective_weight(model.get_submodule(name), width)
    scales = sum(
        module.input_scale.numel()
        for module in model.modules()
        if getattr(module, "input_scale", None) is not None
    )
    return Answer(
        weights, zero_point_bits=request.bits, samples=len(few.ids), runtime_scales=scales
    )


run(quantize)
