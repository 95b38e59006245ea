"""What runs a compiled model, as a row of what it takes."""

from __future__ import annotations

from dataclasses import dataclass

ORT, ONNX = "ort", "onnx"
"""Forms: onnxruntime's own operations, and standard ones; the order of formats has ONNX first."""
PRODUCT, TABLE = "MatMulNBits", "GatherBlockQuantized"
"""Products with codes and rows of tables of codes, as onnxruntime's own operations."""
CACHED_ATTENTION, ATTENTION = "GroupQueryAttention", "MultiHeadAttention"
ROTARY, EXPERTS, LINEAR_ATTENTION = "RotaryEmbedding", "QMoE", "LinearAttention"
SKIP_LAYER, SKIP_RMS = "SkipLayerNormalization", "SkipSimplifiedLayerNormalization"

SPREAD = 32
"""Blocks that onnxruntime repeats a scale of a whole row for."""


@dataclass(frozen=True)
class Target:
    """What runs a model, and what it takes: all that awqc asks of one.

    Attributes:
        name: by which it is asked for.
        about: what it is, in a line.
        fused: operations of onnxruntime's own that it has kernels for, and gains by.
        lacks: standard operations of our graphs that it has no kernel for.
        dtypes: types that its low-bit products compute in, the best first.
        widths: of weights that it has products for.
        block_sizes: how many weights of a row may share a scale, the best first.
        row_blocks: blocks that a scale of a whole row is repeated for, where the row is made of
            blocks of that size, the fastest first; else it is blocks of `SPREAD`.
        zero_points: whether a group may have one; else weights are symmetric.
        side_by_side: whether three products of one value become one, which is split then, in models
            that read one token at a time.
        adds_vectors: whether its low-bit products add a vector themselves.
        opset: the newest version of the standard operators that it reads.
        accuracy_level: at which its low-bit products are written.
        shared_cache: whether a past and its present may be one buffer.
        turns_positions: whether its attention with a cache turns queries and keys by their places
            in the cache, and gains by that.
        largest_buffer: bytes of one tensor at the most, where there is a limit.
    """

    name: str
    about: str
    fused: frozenset[str]
    lacks: frozenset[str]
    dtypes: tuple[str, ...]
    widths: tuple[int, ...]
    block_sizes: tuple[int, ...]
    row_blocks: tuple[int, ...]
    zero_points: bool
    side_by_side: bool
    adds_vectors: bool
    opset: int
    accuracy_level: int
    shared_cache: bool
    turns_positions: bool
    largest_buffer: int | None

    def row_block(self, columns: int) -> int:
        """The blocks of a row of ``columns`` with one scale, which is repeated for each.

        A last block that is not full would cost bytes, and another copy of a table that is also
        looked up.
        """
        return next((size for size in self.row_blocks if columns % size == 0), SPREAD)

    @property
    def form(self) -> str:
        """The form of ONNX that is written for it: onnxruntime's own, or standard operators."""
        return ORT if self.fused else ONNX
