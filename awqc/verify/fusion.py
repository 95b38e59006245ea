"""Which quantized weights really run as low-bit kernels in onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnxruntime as ort

from awqc.artifacts.scratch import scratch_folder

FUSED_OPS = frozenset({"MatMulNBits", "GatherBlockQuantized"})
_PASSING = frozenset({"Transpose", "Reshape", "Cast", "Identity"})
_PRODUCTS = frozenset({"MatMul", "Gemm", "FusedMatMul", "FusedGemm", "TransposeMatMul"})


@dataclass(frozen=True)
class FusionReport:
    """What onnxruntime makes of the quantized weights.

    Attributes:
        count: low-bit kernels in the optimized model.
        unfused: names of quantized weights that are dequantized at each run although they
            feed a matrix product.
        other: names of quantized weights that are dequantized for another operation, such
            as a convolution.
    """

    count: int
    unfused: tuple[str, ...]
    other: tuple[str, ...]


def fused_kernels(
    path: Path, providers: Sequence[str] = ("CPUExecutionProvider",)
) -> FusionReport:
    """Count the low-bit kernels of the model at ``path`` after onnxruntime's optimization."""
    with scratch_folder() as folder:
        graph = _optimized(path, folder / "optimized.onnx", providers)
    unfused: list[str] = []
    other: list[str] = []
    initializers = {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in initializers:
            products = _PRODUCTS & _readers(graph, node.output[0])
            (unfused if products else other).append(node.input[0])
    count = sum(node.op_type in FUSED_OPS for node in graph.node)
    return FusionReport(count, tuple(unfused), tuple(other))


def _optimized(path: Path, target: Path, providers: Sequence[str]) -> onnx.GraphProto:
    """The graph as onnxruntime runs it; weights stay in a file that is not read."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(target)
    options.log_severity_level = 3
    options.add_session_config_entry(
        "session.optimized_model_external_initializers_file_name", f"{target.name}.data"
    )
    ort.InferenceSession(str(path), options, providers=list(providers))
    return onnx.load(str(target), load_external_data=False).graph


def _readers(graph: onnx.GraphProto, name: str) -> set[str]:
    """Types of the operations that read ``name``, directly or through a change of layout."""
    found: set[str] = set()
    names = {name}
    for node in graph.node:
        if names.isdisjoint(node.input):
            continue
        if node.op_type in _PASSING:
            names.update(node.output)
        else:
            found.add(node.op_type)
    return found
