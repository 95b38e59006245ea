"""All targets, a row each.

What a row says of CPU and CUDA was measured (docs/deployment.md); the others follow what their
makers document, and nothing was run there.
"""

from __future__ import annotations

from awqc.targets.base import (
    ATTENTION,
    CACHED_ATTENTION,
    PRODUCT,
    ROTARY,
    SKIP_RMS,
    TABLE,
    Target,
)

LOW_BIT = frozenset({PRODUCT, TABLE})
BLOCKS = (128, 64, 32, 256, 16)
MIB = 2**20

ORT_CPU = Target(
    name="ort-cpu",
    about="onnxruntime on the CPU",
    # SkipLayerNormalization takes five times as long there as a sum and a norm
    fused=LOW_BIT | {CACHED_ATTENTION, ATTENTION, ROTARY, SKIP_RMS},
    lacks=frozenset(),
    dtypes=("float32", "float16"),
    bits=(2, 4, 8),
    block_sizes=BLOCKS,
    zero_points=True,
    side_by_side=True,
    adds_vectors=True,
    opset=25,
    accuracy_level=4,
    shared_cache=True,
    largest_buffer=None,
)
