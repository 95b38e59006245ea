"""onnxruntime's matmul_nbits_quantizer: RTN, HQQ and GPTQ on MatMul nodes.

It gets a model that is nothing but one MatMul for each linear layer, and GPTQ the inputs that the
layers have in the float model: it looks at nothing else, and keeps all of them, so that it gets
fewer calibration sequences than the others.
"""

from __future__ import annotations

import numpy as np
import onnx
import torch
from common import Answer, NotOfferedError, Request, linears, run
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader
from onnxruntime.quantization import matmul_nbits_quantizer as nbits
from torch import Tensor, nn

SEQUENCES = 8


def matmuls(layers: dict[str, nn.Linear]) -> onnx.ModelProto:
    """A model with one MatMul for each layer; the weight ``[K, N]`` has the layer's name."""
    nodes, weights, inputs, outputs = [], [], [], []
    for name, layer in layers.items():
        array = layer.weight.detach().T.contiguous().numpy()
        shape = ["tokens", len(array)]
        weights.append(numpy_helper.from_array(array, name))
        nodes.append(helper.make_node("MatMul", [f"{name}.x", name], [f"{name}.y"], name=name))
        inputs.append(helper.make_tensor_value_info(f"{name}.x", TensorProto.FLOAT, shape))
        outputs.append(helper.make_tensor_value_info(f"{name}.y", TensorProto.FLOAT, None))
    graph = helper.make_graph(nodes, "linears", inputs, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


class Reader(CalibrationDataReader):
    """The input of each layer, ``NAME.x``, a batch of the calibration text at a time."""

    def __init__(self, request: Request, model: nn.Module, layers: dict[str, nn.Linear]) -> None:
        self.batches = request.batches()
        self.model, self.layers = model, layers

    def __deepcopy__(self, memo: dict[int, object]) -> Reader:
        return self

    @torch.no_grad()
    def get_next(self) -> dict[str, np.ndarray] | None:
        """Run the float model on the next batch."""
        batch = next(self.batches, None)
        if batch is None:
            return None
        found = {}

        def keep(name: str, value: Tensor) -> None:
            found[f"{name}.x"] = value.flatten(0, -2).numpy()

        hooks = [
            layer.register_forward_pre_hook(lambda _, args, name=name: keep(name, args[0]))
            for name, layer in self.layers.items()
        ]
        self.model(**batch)
        for hook in hooks:
            hook.remove()
        return found


def dequantize(node: onnx.NodeProto, arrays: dict[str, np.ndarray]) -> Tensor:
    """The float weight ``(N, K)`` of a MatMulNBits node."""
    given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    rows, columns, block, bits = (given[key] for key in ("N", "K", "block_size", "bits"))
    codes = unpack(arrays[node.input[1]].reshape(rows, -1), bits)
    groups = -(-columns // block)
    scale = arrays[node.input[2]].reshape(rows, groups, 1)
    zero = np.full((rows, groups, 1), 2.0 ** (bits - 1))
    if len(node.input) > 3 and node.input[3]:
        stored = arrays[node.input[3]]
        if stored.dtype == np.uint8:
            stored = unpack(stored.reshape(rows, -1), bits)[:, :groups]
        zero = stored.reshape(rows, groups, 1)
    weight = (codes.reshape(rows, groups, block).astype(np.float32) - zero) * scale
    return torch.from_numpy(weight.reshape(rows, -1)[:, :columns].astype(np.float32))


def unpack(packed: np.ndarray, bits: int) -> np.ndarray:
    """Codes of a uint8 array ``(rows, bytes)``, low bits first."""
    parts = [(packed >> shift) & (2**bits - 1) for shift in range(0, 8, bits)]
    return np.stack(parts, axis=-1).reshape(len(packed), -1)


def config(request: Request, reader: Reader) -> nbits.WeightOnlyQuantConfig:
    """The quantizer's configuration of a method."""
    if request.method == "rtn":
        return nbits.DefaultWeightOnlyQuantConfig(
            block_size=request.group_size, is_symmetric=False, bits=request.bits
        )
    if request.method == "hqq":
        return nbits.HQQWeightOnlyQuantConfig(block_size=request.group_size, bits=request.bits)
    return nbits.GPTQWeightOnlyQuantConfig(
        calibration_data_reader=reader, block_size=request.group_size, perchannel=True
    )


def quantize(request: Request, model: nn.Module) -> Answer:
    layers = linears(model)
    few = request.first(SEQUENCES)
    if request.group_size == -1:
        raise NotOfferedError("MatMulNBits has no scale a channel: blocks are 16 to 256")
    quantizer = nbits.MatMulNBitsQuantizer(
        matmuls(layers),
        bits=request.bits,
        block_size=request.group_size,
        algo_config=config(request, Reader(few, model, layers)),
    )
    quantizer.process()
    graph = quantizer.model.model.graph
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    nodes = [node for node in graph.node if node.op_type == "MatMulNBits"]
    if len(nodes) != len(layers):
        raise RuntimeError(f"{len(nodes)} of {len(layers)} products were quantized")
    weights = {}
    for node in nodes:
        name = node.output[0].removesuffix(".y")
        weights[f"{name}.weight"] = dequantize(node, arrays)
    floats = request.method == "hqq"
    samples = len(few.ids) if request.method == "gptq" else 0
    return Answer(weights, zero_point_bits=16 if floats else request.bits, samples=samples)


run(quantize)
