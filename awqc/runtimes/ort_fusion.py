"""Which quantized weights really run as low-bit kernels in onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx
import onnxruntime as ort

from awqc.artifacts.scratch import scratch_folder
from awqc.machine.memory import trim
from awqc.runtimes.base import Kernels
from awqc.runtimes.session_file import CPU, CUDA, LEVEL, LEVELLED, LOW_BIT

FUSED_OPS = frozenset({LOW_BIT, "GatherBlockQuantized"})
KERNELS = FUSED_OPS | LEVELLED
_PASSING = frozenset({"Transpose", "Reshape", "Cast", "Identity"})
_PRODUCTS = frozenset({"MatMul", "Gemm", "FusedMatMul", "FusedGemm", "TransposeMatMul"})
_LEVELS = {0: "as the model", 1: "float32", 2: "float16", 3: "bfloat16", 4: "int8 activations"}


def fused_kernels(path: Path, providers: Sequence[str] = (CPU,)) -> Kernels:
    """The low-bit kernels of the model at ``path`` after onnxruntime's optimization.

    A quantized weight that no kernel reads is dequantized at each run.
    """
    with scratch_folder() as folder:
        graph = _optimized(path, folder / "optimized.onnx", providers)
        trim()
    weights = dequantized_weights(graph)
    unfused, other = ([name for name, product in weights.items() if product is kind]
                      for kind in (True, False))  # fmt: skip
    count = sum(node.op_type in KERNELS for node in graph.node)
    precision = _precision(graph) if CUDA not in providers else "as the model"
    return Kernels(count, tuple(unfused), tuple(other), precision)


def dequantized_weights(graph: onnx.GraphProto) -> dict[str, bool]:
    """Names of the weights that DequantizeLinear reads, and whether they feed a matrix product."""
    initializers = {tensor.name for tensor in graph.initializer}
    return {
        node.input[0]: bool(_PRODUCTS & _readers(graph, node.output[0]))
        for node in graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in initializers
    }


def _precision(graph: onnx.GraphProto) -> str:
    """What low-bit products compute in on the CPU, by their accuracy levels."""
    levels = {
        next((a.i for a in node.attribute if a.name == LEVEL), 0)
        for node in graph.node
        if node.op_type in LEVELLED
    }
    return " and ".join(_LEVELS[level] for level in sorted(levels)) or "as the model"


def _optimized(path: Path, target: Path, providers: Sequence[str]) -> onnx.GraphProto:
    """The graph as onnxruntime runs it; weights stay in a file that is not read."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(target)
    options.log_severity_level = 3
    options.add_session_config_entry("session.disable_prepacking", "1")  # it is not run
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
