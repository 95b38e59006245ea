"""NNCF on an OpenVINO model: the backend that has GPTQ, which its torch backend refuses."""

from __future__ import annotations

import nncf
import openvino
import torch
from common import Answer, NotOfferedError, Request, linears, run
from torch import Tensor, nn

SEQUENCES = 16
METHODS = {
    "gptq": {"gptq": True},
    "awq-gptq": {"awq": True, "gptq": True},
    "awq-gptq-scale-estimation": {"awq": True, "gptq": True, "scale_estimation": True},
}


class Plain(nn.Module):
    """The model with two inputs, one output, and no cache."""

    def __init__(self, model: nn.Module, causal: bool) -> None:
        super().__init__()
        self.model = model
        self.options = {"use_cache": False} if causal else {}

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits, or the last hidden state."""
        return self.model(input_ids=input_ids, attention_mask=attention_mask, **self.options)[0]


def products(model: openvino.Model) -> dict[str, openvino.Node]:
    """The node that gives each MatMul its weight, by the name of the weight's constant."""
    found = {}
    for node in model.get_ordered_ops():
        if node.get_type_name() != "MatMul":
            continue
        source = node.input_value(1).get_node()
        constant = source
        while constant.get_input_size():
            constant = constant.input_value(0).get_node()
        if constant.get_type_name() == "Constant":
            found[constant.get_friendly_name()] = node
    return found


def evaluate(node: openvino.Node) -> Tensor:
    """The float weight ``(rows, columns)`` that ``node`` multiplies with."""
    weight = node.input_value(1)
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    constant = openvino.Core().compile_model(openvino.Model([weight], []), "CPU", options)
    return torch.from_numpy(constant({})[0].copy()).float()


def quantize(request: Request, model: nn.Module) -> Answer:
    if request.bits != 4:
        raise NotOfferedError(f"compress_weights has no {request.bits}-bit mode")
    few = request.first(SEQUENCES)
    batches = list(few.batches())
    plain = Plain(model, request.causal)
    converted = openvino.convert_model(plain, example_input=batches[0])
    compressed = nncf.compress_weights(
        converted,
        mode=nncf.CompressWeightsMode.INT4_ASYM,
        ratio=1.0,
        group_size=request.group_size,
        dataset=nncf.Dataset([{k: v.numpy() for k, v in batch.items()} for batch in batches]),
        subset_size=len(batches),
        backup_mode=nncf.BackupMode.NONE,
        **METHODS[request.method],
    )
    nodes = products(compressed)
    weights, skipped = {}, []
    for name in linears(model):
        matches = [node for key, node in nodes.items() if f"{name}.weight" in key]
        if len(matches) == 1:
            weights[f"{name}.weight"] = evaluate(matches[0])
        else:
            skipped.append(f"{name} left in float")
    return Answer(weights, zero_point_bits=request.bits, samples=len(few.ids), notes=tuple(skipped))


run(quantize)
