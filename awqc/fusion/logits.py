"""Logits of the last positions only, where a runner asks for no more."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from awqc.fusion.onnx_values import Node, Value, dims, only_reader, scalar
from awqc.fusion.workbench import PRODUCTS, Workbench
from awqc.kv_cache import LOGITS_START, PAST

TOKENS = 1
"""The axis of tokens in logits."""
ENDLESS = 2**31 - 1
ELEMENTWISE = frozenset({"Mul", "Div", "Add", "Tanh", "Cast", "Identity"})


def start_logits(bench: Workbench) -> None:
    """Let an input say from which token on logits are made; all of them where it is not given.

    before:  logits = head(h)
    after:   logits = head(h[:, logits_start:])    logits_start: int64 (1,), [0] by default

    The head is the product with a weight that an output comes from, of a model with a cache, with
    nothing behind it but operations on each element. -1 gives the logits of the last token.
    """
    if not any(str(value.name).startswith(PAST) for value in bench.graph.inputs):
        return
    for output in bench.graph.outputs:
        head = _head(output)
        if head is not None:
            source = head.inputs[0]
            start = bench.shared.get(LOGITS_START) or _input(bench)
            bounds = [start, bench.constant([ENDLESS]), bench.constant([TOKENS])]
            head.replace_input_with(0, bench.add("Slice", [source, *bounds], at=head))
            bench.found[LOGITS_START] += 1


def _head(output: Value) -> Node | None:
    """The product that ``output`` comes from, token by token."""
    sizes = dims(output)
    if sizes is None or len(sizes) != 3 or not isinstance(sizes[TOKENS], str):
        return None
    value = output
    while (node := value.producer()) is not None:
        if value is not output and only_reader(value) is None:
            return None
        if node.op_type in PRODUCTS:
            rank = len(dims(node.inputs[0]) or [])
            weighted = node.inputs[1].producer() is None or _is_weight(node.inputs[1])
            return node if rank == 3 and weighted else None
        if node.op_type not in ELEMENTWISE or not all(map(_broadcasts, node.inputs[1:])):
            return None
        value = node.inputs[0]
    return None


def _is_weight(value: Value) -> bool:
    """Whether ``value`` is made of constants alone."""
    node: Any = value.producer()
    return all(each is None or each.const_value is not None for each in node.inputs)


def _broadcasts(value: Value) -> bool:
    """Whether a second operand is the same for each token."""
    return scalar(value) is not None or (
        value.const_value is not None and len(dims(value) or []) == 1
    )


def _input(bench: Workbench) -> Value:
    value = ir.Value(
        name=LOGITS_START,
        type=ir.TensorType(ir.DataType.INT64),
        shape=ir.Shape([1]),
        const_value=ir.Tensor(np.zeros(1, np.int64), name=LOGITS_START),
    )
    bench.graph.inputs.append(value)
    bench.graph.register_initializer(value)
    bench.shared[LOGITS_START] = value
    return value
