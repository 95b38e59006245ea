"""Linear attention in standard ONNX: a Scan over tokens, of any number.

torch's translator passes it on as an operation that no runtime knows; then a Scan takes its place.
"""

from __future__ import annotations

from typing import Any

import onnx
import onnx_ir as ir
import torch
from torch import Tensor

DOMAIN, KIND = "awqc", "LinearAttention"
TOKENS = 1
"""The axis of tokens, of all that is read and made."""


def scan_symbol(
    query: Tensor, key: Tensor, value: Tensor, decay: Tensor, beta: Tensor | None, state: Tensor
) -> tuple[Tensor, ...]:
    """What stands for `awqc.graph.recurrence.linear_attention` while a graph is translated."""
    rates = [] if beta is None else [beta.unsqueeze(-1)]
    return tuple(
        torch.onnx.ops.symbolic_multi_out(
            f"{DOMAIN}::{KIND}",
            [state, query, key, value, decay, *rates],
            dtypes=(value.dtype, state.dtype),
            shapes=(value.shape, state.shape),
            version=1,
        )
    )


def write_scans(model: Any) -> None:
    """Put a Scan in the place of each operation that `scan_symbol` left, in place."""
    for node in [n for n in model.graph if (n.domain, n.op_type) == (DOMAIN, KIND)]:
        results, state = node.outputs
        body = _body(node)
        count = len(node.inputs) - 1
        made = ir.node(
            "Scan",
            list(node.inputs),
            attributes={
                "body": body,
                "num_scan_inputs": count,
                "scan_input_axes": [TOKENS] * count,
                "scan_output_axes": [TOKENS],
            },
            num_outputs=2,
        )
        model.graph.insert_before(node, made)
        for old, new in ((state, made.outputs[0]), (results, made.outputs[1])):
            new.type, new.shape, name = old.type, old.shape, old.name
            ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
            old.name, new.name = f"{name}_before", name
        model.graph.remove(node, safe=True)
    model.opset_imports.pop(DOMAIN, None)


def _body(node: Any) -> ir.Graph:
    """One token: what `awqc.graph.recurrence.linear_attention` says of it."""
    heads, width, size = (int(each) for each in node.inputs[0].shape[1:])
    decays = int(node.inputs[4].shape[-1])
    delta = len(node.inputs) > 5
    text = f"""
        <ir_version: 10, opset_import: ["" : 21]>
        {KIND} (float[B,{heads},{width},{size}] state, float[B,{heads},{width}] query,
                float[B,{heads},{width}] key, float[B,{heads},{size}] value,
                float[B,{heads},{decays}] decay{f", float[B,{heads},1] beta" if delta else ""})
            => (float[B,{heads},{width},{size}] left, float[B,{heads},{size}] result)
            <int64[1] column = {{-1}}, int64[1] row = {{-2}}>
        {{
            kept = Exp(decay)
            kept_row = Unsqueeze(kept, column)
            old = Mul(state, kept_row)
            key_row = Unsqueeze(key, row)
            key_column = Unsqueeze(key, column)
            value_row = Unsqueeze(value, row)
            {_DELTA if delta else "added = Identity(value_row)"}
            outer = Mul(key_column, added)
            left = Add(old, outer)
            query_row = Unsqueeze(query, row)
            result_row = MatMul(query_row, left)
            result = Squeeze(result_row, row)
        }}
    """
    graph: ir.Graph = ir.serde.deserialize_graph(onnx.parser.parse_model(text).graph)
    for value in (*graph.inputs, *graph.initializers.values()):
        value.name = f"{KIND}.{value.name}"
    for each in graph:
        each.name = f"{KIND}/{each.outputs[0].name}"
        for value in each.outputs:
            value.name = f"{KIND}.{value.name}"
    return graph


_DELTA = """known = MatMul(key_row, old)
            missing = Sub(value_row, known)
            rate = Unsqueeze(beta, column)
            added = Mul(missing, rate)"""
