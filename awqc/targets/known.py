"""All targets, a row each. Adding one is a row here and its line in tests/targets/test_known.py.

What the rows of onnxruntime on CPU and CUDA say was measured, and what OpenVINO's says was run
(docs/deployment.md, docs/runtimes.md). The others follow what is documented; nothing was run there.
"""

from __future__ import annotations

from awqc.targets.base import (
    ATTENTION,
    CACHED_ATTENTION,
    EXPERTS,
    LINEAR_ATTENTION,
    PRODUCT,
    ROTARY,
    SKIP_LAYER,
    SKIP_RMS,
    TABLE,
    Target,
)

AUTO = "auto"
LOW_BIT = frozenset({PRODUCT, TABLE})
NOTHING: frozenset[str] = frozenset()
LARGE_FIRST, SMALL_FIRST = (128, 64, 32, 256, 16), (32, 128, 64, 16)
MIB = 2**20
BLOCKED, TWO_BIT, NEWEST = 21, 25, 26
"""Versions of the standard operators: with scales of blocks, with codes of 2 bits, and the last."""

ORT_CPU = Target(
    name="ort-cpu",
    about="onnxruntime on the CPU",
    # not SkipLayerNormalization: it takes five times as long there as a sum and a norm
    fused=LOW_BIT | {CACHED_ATTENTION, ATTENTION, ROTARY, SKIP_RMS, EXPERTS, LINEAR_ATTENTION},
    lacks=NOTHING,
    dtypes=("float32", "float16"),
    widths=(2, 3, 4, 8),
    block_sizes=LARGE_FIRST,
    row_blocks=(256, 128, 64),
    zero_points=True,
    side_by_side=True,
    adds_vectors=True,
    opset=TWO_BIT,
    accuracy_level=4,
    shared_cache=True,
    turns_positions=True,
    largest_buffer=None,
)
ORT_CUDA = Target(
    name="ort-cuda",
    about="onnxruntime on NVIDIA GPUs",
    fused=LOW_BIT | {CACHED_ATTENTION, ATTENTION, ROTARY, SKIP_RMS, SKIP_LAYER},
    lacks=NOTHING,
    dtypes=("float16", "bfloat16", "float32"),
    widths=(4, 8),
    block_sizes=SMALL_FIRST,  # its fastest kernel takes 32
    row_blocks=(),
    zero_points=True,
    side_by_side=True,
    adds_vectors=False,
    opset=TWO_BIT,
    accuracy_level=4,
    shared_cache=True,
    turns_positions=False,
    largest_buffer=None,
)
WEBGPU = Target(
    name="webgpu",
    about="onnxruntime-web and others on WebGPU",
    fused=LOW_BIT | {CACHED_ATTENTION, ATTENTION, ROTARY, SKIP_RMS, SKIP_LAYER},
    lacks=frozenset({"Shape"}),
    dtypes=("float16", "float32"),
    widths=(4, 8),
    block_sizes=SMALL_FIRST,
    row_blocks=(),
    zero_points=True,
    side_by_side=True,
    adds_vectors=False,
    opset=BLOCKED,
    accuracy_level=4,
    shared_cache=True,
    turns_positions=False,
    largest_buffer=256 * MIB,
)
DML = Target(
    name="dml",
    about="onnxruntime with DirectML",
    fused=LOW_BIT | {CACHED_ATTENTION, ATTENTION, ROTARY, SKIP_RMS, SKIP_LAYER},
    lacks=NOTHING,
    dtypes=("float16", "float32"),
    widths=(4, 8),
    block_sizes=SMALL_FIRST,
    row_blocks=(),
    zero_points=True,
    side_by_side=False,
    adds_vectors=False,
    opset=BLOCKED,
    accuracy_level=4,
    shared_cache=True,
    turns_positions=False,
    largest_buffer=None,
)
TRT_RTX = Target(
    name="trt-rtx",
    about="onnxruntime with TensorRT for RTX",
    fused=frozenset({CACHED_ATTENTION, ROTARY}),  # weights stay in DequantizeLinear
    lacks=NOTHING,
    dtypes=("float16", "bfloat16", "float32"),
    widths=(4, 8),
    block_sizes=LARGE_FIRST,
    row_blocks=(),
    zero_points=False,
    side_by_side=False,
    adds_vectors=False,
    opset=BLOCKED,
    accuracy_level=4,
    shared_cache=True,
    turns_positions=False,
    largest_buffer=None,
)
OPENVINO = Target(
    name="openvino",
    about="OpenVINO",
    fused=NOTHING,
    lacks=NOTHING,
    dtypes=("float32", "float16"),
    widths=(3, 4, 8),
    block_sizes=LARGE_FIRST,
    row_blocks=(),
    zero_points=True,
    side_by_side=False,
    adds_vectors=False,
    opset=BLOCKED,
    accuracy_level=4,
    shared_cache=False,
    turns_positions=False,
    largest_buffer=None,
)
QNN = Target(
    name="qnn",
    about="onnxruntime on Qualcomm's NPU",
    fused=NOTHING,
    lacks=frozenset({"Attention", "RotaryEmbedding", "Range", "TensorScatter"}),
    dtypes=("float16", "float32"),
    widths=(4, 8),
    block_sizes=SMALL_FIRST,
    row_blocks=(),
    zero_points=False,
    side_by_side=False,
    adds_vectors=False,
    opset=BLOCKED,
    accuracy_level=4,
    shared_cache=False,
    turns_positions=False,
    largest_buffer=None,
)
ONNX = Target(
    name="onnx",
    about="whatever reads standard ONNX",
    fused=NOTHING,
    lacks=NOTHING,
    dtypes=("float32", "float16", "bfloat16"),
    widths=(2, 3, 4, 8),
    block_sizes=LARGE_FIRST,
    row_blocks=(),
    zero_points=True,
    side_by_side=False,
    adds_vectors=False,
    opset=NEWEST,
    accuracy_level=4,
    shared_cache=False,
    turns_positions=False,
    largest_buffer=None,
)

TARGETS = {
    row.name: row for row in (ORT_CPU, ORT_CUDA, WEBGPU, DML, OPENVINO, TRT_RTX, QNN, ONNX)
}  # fmt: skip


def find_target(name: str) -> Target:
    """The row of a target; of ``auto`` that of onnxruntime on the CPU."""
    return ORT_CPU if name == AUTO else TARGETS[name]
