"""What is added to the scores of an attention, and what tokens give that see nothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from awqc.fusion.onnx_values import Value, dims, maker
from awqc.fusion.scores import Apart
from awqc.fusion.workbench import Workbench

RANK = 4
"""Of what is added: ``(batch or 1, heads or 1, tokens, keys)``."""


def added(
    bench: Workbench, biases: Sequence[Value], query: Value, hidden: Sequence[Value] = ()
) -> Value | None:
    """The sum of ``biases`` with a row for each token, ``(batch or 1, heads or 1, tokens, keys)``.

    Where ``hidden`` are true it is the lowest number.

    Where nothing is seen it is the lowest number, which kernels take for that: minus infinity
    makes NaN of a row that sees nothing. Made once for all layers that add the same.

    Raises:
        Apart: the sizes of what is added are not known.
    """
    biases = [_of_heads(bench, each, query) for each in biases]
    biases += [_hiding(bench, each, query) for each in hidden]
    if not biases:
        return None
    sizes, wanted = [dims(each) for each in biases], dims(query)
    if wanted is None or any(not each or len(each) > RANK for each in sizes):
        raise Apart("the sizes of its mask are not known")
    key = ("mask", *biases)
    if key not in bench.shared:
        first, *others = (_wide(bench, each) for each in biases)
        for each in others:
            first = bench.add("Add", [first, each])
        kind = biases[0].dtype.numpy()
        bias = bench.add("Max", [first, bench.constant(np.finfo(kind).min, kind)])
        if all(each is not None and each[-2:-1] != wanted[2:3] for each in sizes):
            tokens = bench.size(query, 2)
            ones = bench.constant([1])
            shape = bench.add("Concat", [ones, ones, tokens, ones], axis=0)
            bias = bench.add("Expand", [bias, shape])
        bench.shared[key] = bias
    made: Value = bench.shared[key]
    return made


def _of_heads(bench: Workbench, bias: Value, query: Value) -> Value:
    """``bias`` before rows and heads were put beside each other, if they were.

    before:  b = Reshape(a)    (batch, heads, keys) as (batch * heads, 1, keys)
    after:   b = Unsqueeze(a, 2)
    """
    node = maker(bias, "Reshape")
    sizes, rows = dims(node.inputs[0] if node is not None else None), dims(query)
    if node is None or len(dims(bias) or []) != RANK - 1 or rows is None:
        return bias
    if sizes is None or sizes[:2] != rows[:2] or len(sizes) not in (RANK - 1, RANK):
        return bias
    if len(sizes) == RANK:
        return node.inputs[0]
    key = ("of heads", bias)
    if key not in bench.shared:
        made = bench.add("Unsqueeze", [node.inputs[0], bench.constant([2])])
        made.type, made.shape = bias.type, ir.Shape([*sizes[:2], 1, sizes[2]])
        bench.shared[key] = made
    return bench.shared[key]


def _hiding(bench: Workbench, hidden: Value, query: Value) -> Value:
    """The lowest number where ``hidden`` is true, else 0."""
    key = ("hiding", hidden)
    if key not in bench.shared:
        kind = query.dtype.numpy()
        numbers = [bench.constant(each, kind) for each in (np.finfo(kind).min, 0)]
        made = bench.add("Where", [hidden, *numbers])
        made.type, made.shape = query.type, hidden.shape
        bench.shared[key] = made
    bias: Value = bench.shared[key]
    return bias


def _wide(bench: Workbench, bias: Value) -> Value:
    """``bias`` with all four axes."""
    missing = RANK - len(dims(bias) or [])
    if not missing:
        return bias
    made: Value = bench.add("Unsqueeze", [bias, bench.constant(list(range(missing)))])
    return made


def zeroed(bench: Workbench, result: Value, seeing: Value, kind: np.dtype[np.generic]) -> Value:
    """``result``, of heads beside each other, zero where ``seeing`` is false.

    Args:
        seeing: ``(batch, 1, tokens, 1)``.
        kind: of ``result``.
    """
    key = ("seeing", seeing)
    if key not in bench.shared:
        bench.shared[key] = bench.add("Squeeze", [seeing, bench.constant([1])])
    made: Value = bench.add("Where", [bench.shared[key], result, bench.constant(0, kind)])
    return made
