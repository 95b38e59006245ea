"""llm-compressor: AWQ followed by rounding, and GPTQ.

Its AWQ pins memory, which a torch without an accelerator refuses: pinning, which is a matter of
speed alone, is taken out here, and the row says so. It runs each block 20 times a batch: fewer
calibration sequences than the others get.
"""

from __future__ import annotations

import torch
from common import Answer, Request, beside, linears, run
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.gptq import GPTQModifier
from llmcompressor.modifiers.quantization import QuantizationModifier
from llmcompressor.modifiers.transform.awq import AWQModifier
from llmcompressor.pipelines.cache import IntermediatesCache
from torch import Tensor, nn

SEQUENCES = {"awq": 16, "gptq": 64}


def scheme(request: Request) -> QuantizationScheme:
    """Asymmetric integer weights, nothing else."""
    whole = request.group_size == -1
    weights = QuantizationArgs(
        num_bits=request.bits,
        type="int",
        symmetric=False,
        strategy="channel" if whole else "group",
        group_size=None if whole else request.group_size,
    )
    return QuantizationScheme(targets=["Linear"], weights=weights)


def dequantized(layer: nn.Module) -> Tensor:
    """Codes times scales of a layer that was quantized."""
    from compressed_tensors.quantization.lifecycle.forward import fake_quantize

    return fake_quantize(
        layer.weight, layer.weight_scale, layer.weight_zero_point, layer.quantization_scheme.weights
    )


def quantize(request: Request, model: nn.Module) -> Answer:
    few = request.first(SEQUENCES[request.method])
    groups = {"group_0": scheme(request)}
    if request.method == "awq":
        recipe = [AWQModifier(), QuantizationModifier(config_groups=groups, ignore=["lm_head"])]
        IntermediatesCache.pin_memory = lambda *given, **named: None
    else:
        recipe = [GPTQModifier(config_groups=groups, ignore=["lm_head"])]
    rows = [{"input_ids": ids.tolist(), "attention_mask": [1] * len(ids)} for ids in few.ids]
    names = set(model.state_dict())
    oneshot(
        model=model,
        dataset=Dataset.from_list(rows),
        recipe=recipe,
        max_seq_length=few.ids.shape[1],
        num_calibration_samples=len(rows),
        shuffle_calibration_samples=False,
    )
    weights = beside(model, names)
    with torch.no_grad():
        weights |= {f"{name}.weight": dequantized(layer) for name, layer in linears(model).items()}
    notes = ("pin_memory taken out: it needs an accelerator",) if request.method == "awq" else ()
    return Answer(weights, zero_point_bits=request.bits, samples=len(rows), notes=notes)


run(quantize)
