"""How long onnxruntime takes on this machine for a product with low-bit weights."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import onnxruntime as ort
from onnx import NodeProto, TensorProto, helper, numpy_helper

from awqc.runtimes.session_file import CPU, LEVEL, LOW_BIT

WEIGHTS = 2**24
"""That are made for it, more than caches hold: of more rows the time is in proportion."""
COPIES = 16
"""Of a small product at the most, so that a call is little beside them."""
RUNS, TURNS = 2, 7


def seconds_of_product(
    rows: int, columns: int, bits: int, block: int, level: int, tokens: int = 1
) -> float:
    """Of ``MatMulNBits`` with ``rows`` x ``columns`` codes for some tokens, on the CPU with one
    thread.

    Of that thread's own time the least of some turns: other work on the machine counts little.
    """
    measured = max(1, min(rows, WEIGHTS // columns))
    copies = max(1, min(COPIES, WEIGHTS // (measured * columns)) // tokens)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    model = _model(copies, measured, columns, bits, block, level)
    session = ort.InferenceSession(model, options, providers=[CPU])
    names = [value.name for value in session.get_outputs()]
    given = {"x": ort.OrtValue.ortvalue_from_numpy(np.ones((tokens, columns), np.float32))}
    found = []
    session.run_with_ort_values(names, given)
    for _ in range(TURNS):
        began = time.thread_time()
        for _ in range(RUNS):
            session.run_with_ort_values(names, given)
        found.append((time.thread_time() - began) / RUNS / copies)
    return min(found) * rows / measured


def _model(copies: int, rows: int, columns: int, bits: int, block: int, level: int) -> bytes:
    """Products of one value, each with weights of its own."""
    rng = np.random.default_rng(0)
    blocks = -(-columns // block)
    nodes: list[NodeProto] = []
    tensors: list[TensorProto] = []
    attributes: dict[str, Any] = {
        "K": columns,
        "N": rows,
        "bits": bits,
        "block_size": block,
        LEVEL: level,
    }
    for index in range(copies):
        codes = rng.integers(0, 256, (rows, blocks, block * bits // 8), dtype=np.uint8)
        scales = np.ones((rows, blocks), np.float32)
        named: dict[str, np.ndarray[Any, Any]] = {
            f"codes_{index}": codes,
            f"scales_{index}": scales,
        }
        tensors += [numpy_helper.from_array(array, name) for name, array in named.items()]
        made = helper.make_node(LOW_BIT, ["x", *named], [f"y_{index}"], **attributes)
        made.domain = "com.microsoft"
        nodes.append(made)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["tokens", columns])
    results = [
        helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, ["tokens", rows])
        for node in nodes
    ]
    graph = helper.make_graph(nodes, "products", [x], results, tensors)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    return bytes(model.SerializeToString())
