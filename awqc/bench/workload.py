"""Inputs of a benchmark: any that the model takes, since its speed does not depend on values."""

from __future__ import annotations

import ast
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from awqc.errors import UsageError
from awqc.kv_cache import CACHE_FLAG, PAST, TOKEN_ROWS, TOKENS
from awqc.runtimes.base import ArraySpec

Array = np.ndarray[Any, Any]
LARGEST_CODE = 16
READ = (TOKENS, TOKEN_ROWS)
"""Inputs that a decoder reads, of which there is one for each token."""
ENCODER = "encoder"
"""In names of inputs that come from an encoder, which are the same at each step."""
_OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
}


@dataclass(frozen=True)
class Workload:
    """What one turn runs.

    Attributes:
        batch: rows of each input.
        tokens: size of every other axis that varies; of the prompt where text is generated.
        new_tokens: decoded after the prompt, by models with a cache.
        seconds: how long a turn of runs without a cache takes, at least.
    """

    batch: int = 1
    tokens: int = 32
    new_tokens: int = 16
    seconds: float = 0.2


def make_inputs(
    inputs: Sequence[ArraySpec], workload: Workload, tokens: int, past: int = 0
) -> dict[str, Array]:
    """Arrays for all ``inputs``: ``tokens`` of them after ``past`` others.

    Raises:
        UsageError: an axis has a size that is no sum or product of named ones.
    """
    ordered = sorted(inputs, key=lambda spec: spec.name not in READ)
    sizes = _sizes(ordered, workload, tokens, past)
    rng = np.random.default_rng(0)
    made = {}
    for spec in inputs:
        shape = tuple(_evaluate(size, sizes, spec.name) for size in spec.shape)
        codes = LARGEST_CODE if spec is ordered[0] else 1
        made[spec.name] = _values(spec, shape, past, codes, rng)
    return made


def _sizes(
    inputs: Sequence[ArraySpec], workload: Workload, tokens: int, past: int
) -> dict[str, int]:
    """The first axis of the first input is the batch; the axis of a cache that varies, the past.

    Other axes of the first input count its tokens; one that it has not, as a mask's, counts the
    past as well. What an encoder made has as many as the prompt.
    """
    sizes: dict[str, int] = {}
    for index, spec in enumerate(inputs):
        for axis, size in enumerate(spec.shape):
            if isinstance(size, str) and size.isidentifier():
                encoded = spec.name.startswith(ENCODER) or f".{ENCODER}" in spec.name
                value = tokens if index == 0 else tokens + past
                value = past if PAST in spec.name and axis else value
                value = workload.tokens if encoded else value
                sizes.setdefault(size, workload.batch if axis == 0 else value)
    return sizes


def _values(
    spec: ArraySpec, shape: tuple[int, ...], past: int, codes: int, rng: np.random.Generator
) -> Array:
    """Integers below ``codes``: a table of kinds of tokens may have a single row."""
    dtype = np.dtype(spec.dtype)
    if spec.name == CACHE_FLAG:
        return np.full(shape, past > 0)
    if dtype.kind == "f":
        return rng.standard_normal(shape).astype(dtype)
    if dtype.kind == "b" or "mask" in spec.name:
        return np.ones(shape, dtype)
    if spec.name == "position_ids":
        return np.broadcast_to(np.arange(past, past + shape[-1], dtype=dtype), shape).copy()
    return rng.integers(0, codes, shape).astype(dtype)


def _evaluate(size: int | str, sizes: Mapping[str, int], where: str) -> int:
    """A size such as ``past + sequence``."""

    def value(node: ast.expr) -> int:
        if isinstance(node, ast.Constant) and isinstance(node.value, int):
            return node.value
        if isinstance(node, ast.Name) and node.id in sizes:
            return sizes[node.id]
        if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
            return int(_OPERATORS[type(node.op)](value(node.left), value(node.right)))
        raise UsageError(f"the size {size!r} of the input {where} is not understood")

    if isinstance(size, int):
        return size
    try:
        return value(ast.parse(size, mode="eval").body)
    except SyntaxError:
        raise UsageError(f"the size {size!r} of the input {where} is not understood") from None
