"""When is a low-bit product faster than a float one? Kernels of onnxruntime, by size.

    python -m benchmarks.latency_kernels     # writes benchmarks/results/latency_kernels.json

For rows x columns of a weight and tokens at once: CPU time of one thread of MatMulNBits at level 4,
by bits and block, over that of MatMul in float32, in turns. Neither torch nor awqc is imported.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

RESULTS = Path(__file__).parent / "results" / "latency_kernels.json"
SHAPES = ((384, 384), (1536, 384), (384, 1536), (768, 768), (2048, 2048))
TOKENS = (1, 8, 32, 128)
KINDS = ((4, 32), (4, 64), (4, 128), (8, 32), (8, 128))
TURNS, SECONDS = 7, 0.01


def float_model(rows: int, columns: int) -> bytes:
    """``MatMul`` with a weight ``(columns, rows)``."""
    weight = numpy_helper.from_array(_normal(columns, rows), "w")
    return _model(helper.make_node("MatMul", ["x", "w"], ["y"]), [weight], columns)


def low_bit_model(rows: int, columns: int, bits: int, block: int) -> bytes:
    """``MatMulNBits`` at level 4, with zero points below 8 bits."""
    rng = np.random.default_rng(0)
    blocks = -(-columns // block)
    codes = rng.integers(0, 256, (rows, blocks, block * bits // 8), dtype=np.uint8)
    zeros = rng.integers(0, 256, (rows, -(-blocks * bits // 8)), dtype=np.uint8)
    arrays = {"w": codes, "s": _normal(rows, blocks)}
    if bits < 8:
        arrays["z"] = zeros
    tensors = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    node = helper.make_node(
        "MatMulNBits",
        ["x", *arrays],
        ["y"],
        domain="com.microsoft",
        K=columns,
        N=rows,
        bits=bits,
        block_size=block,
        accuracy_level=4,
    )
    return _model(node, tensors, columns)


def _normal(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def _model(node: Any, tensors: Sequence[Any], columns: int) -> bytes:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["tokens", columns])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["tokens", None])
    graph = helper.make_graph([node], "g", [x], [y], list(tensors))
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    return bytes(model.SerializeToString())


def runner(model: bytes, tokens: int, columns: int) -> Callable[[], object]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    given = {"x": ort.OrtValue.ortvalue_from_numpy(_normal(tokens, columns))}
    return lambda: session.run_with_ort_values(["y"], given)


def cpu_microseconds(runs: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Median over turns of the time of one run."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(TURNS):
        for name, run in runs.items():
            run()
            count, started = 0, time.process_time()
            while time.process_time() - started < SECONDS:
                run()
                count += 1
            found[name].append((time.process_time() - started) / count * 1e6)
    return {name: statistics.median(values) for name, values in found.items()}


def main() -> None:
    """Measure, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    rows = []
    for (out, columns), tokens in itertools.product(SHAPES, TOKENS):
        runs = {"float": runner(float_model(out, columns), tokens, columns)}
        for bits, block in KINDS:
            model = low_bit_model(out, columns, bits, block)
            runs[f"{bits} bits, block {block}"] = runner(model, tokens, columns)
        found = cpu_microseconds(runs)
        speedup = {name: found["float"] / value for name, value in found.items()}
        rows.append(
            {"rows": out, "columns": columns, "tokens": tokens, "cpu_us": found, "speedup": speedup}
        )
        print(out, columns, tokens, {name: round(value, 2) for name, value in speedup.items()})
    result = {"onnxruntime": ort.__version__, "kernels": rows}
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
