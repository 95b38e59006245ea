"""A decoder of realistic width: how much faster low-bit weights make it, and where time goes.

    python -m benchmarks.width            # writes benchmarks/results/width.json

4 layers of width 2048, random weights, groups of 128. CPU time of one thread: the float ONNX, the
portable QDQ form and onnxruntime's own form, in turns; then a decoding step against what
onnxruntime's profile has for its low-bit products and for attention (all between the products
that make queries, keys and values and the one behind).
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import onnx

from awqc.export.onnx import export_onnx
from awqc.export.ort import export_ort
from awqc.report.content import environment
from benchmarks.width_models import cpu_seconds, decoder, feeds, quantize, runner, session

RESULTS = Path(__file__).parent / "results" / "width.json"
PRODUCT = "MatMulNBits"
PROFILED = 40


def build(folder: Path, layers: int, hidden: int, group: int) -> dict[str, Path]:
    """The three models, by name."""
    paths = {name: folder / name / "model.onnx" for name in ("float", "qdq", "ort")}
    for path in paths.values():
        path.parent.mkdir(parents=True)
    program = decoder(layers, hidden)
    export_onnx(program, paths["float"])
    quantize(program, bits=4, group_size=group)
    export_onnx(program, paths["qdq"])
    export_ort(paths["qdq"], paths["ort"])
    return paths


def attention_nodes(path: Path) -> set[str]:
    """Names of nodes between low-bit products, where there is a Softmax among them."""
    graph = onnx.load(path, load_external_data=False).graph
    made = {name: node for node in graph.node for name in node.output}
    found: set[str] = set()
    for product in graph.node:
        if product.op_type != PRODUCT:
            continue
        between, waiting = [], [product.input[0]]
        seen: set[str] = set()
        while waiting:
            node = made.get(waiting.pop())
            if node is None or node.op_type == PRODUCT or node.name in seen:
                continue
            seen.add(node.name)
            between.append(node)
            waiting += list(node.input)
        if any(node.op_type == "Softmax" for node in between):
            found |= {node.name for node in between}
    return found


def shares(path: Path, past: int, folder: Path) -> dict[str, float]:
    """Milliseconds of one decoding step (``step``), and of its kinds of nodes in a profile.

    A profiled session and a plain one take turns, `PROFILED` runs each; medians of both.
    """
    optimized = folder / "optimized.onnx"
    models = [session(path), session(path, profile=folder / "profile", optimized=optimized)]
    plain, profiled = (runner(model, feeds(model, 1, past)) for model in models)
    steps = []
    for _ in range(PROFILED):
        plain()
        started = time.perf_counter()
        plain()
        steps.append((time.perf_counter() - started) * 1000)
        profiled()
    attention = attention_nodes(optimized)
    runs = [dict.fromkeys(("products", "attention", "rest"), 0.0)]
    for event in json.loads(Path(models[1].end_profiling()).read_text()):
        if event["name"] == "model_run":
            runs.append(dict.fromkeys(runs[0], 0.0))
        elif event["name"].endswith("_kernel_time"):
            name, kind = event["name"].removesuffix("_kernel_time"), event["args"]["op_name"]
            part = "products" if kind == PRODUCT else "attention" if name in attention else "rest"
            runs[-1][part] += event["dur"] / 1000
    parts = {part: statistics.median(run[part] for run in runs[1:-1]) for part in runs[0]}
    return {"step": statistics.median(steps), **parts}


def measure(paths: dict[str, Path], tokens: int, past: int, turns: int) -> dict[str, Any]:
    """Median milliseconds of each model, and float over each."""
    models = {name: session(path) for name, path in paths.items()}
    runs = {name: runner(model, feeds(model, tokens, past)) for name, model in models.items()}
    found = cpu_seconds(runs, turns)
    return {
        "cpu_ms": {name: value * 1000 for name, value in found.items()},
        "speedup": {name: found["float"] / value for name, value in found.items()},
    }


def main() -> None:
    """Measure, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--group-size", type=int, default=128)
    parser.add_argument("--past", type=int, default=256)
    parser.add_argument("--prompt", type=int, default=256)
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        paths = build(folder, given.layers, given.hidden, given.group_size)
        decode = measure(paths, 1, given.past, turns=12)
        prefill = measure(paths, given.prompt, 0, turns=2)
        parts = shares(paths["ort"], given.past, folder)
    bare = parts["products"] + parts["attention"]
    result = {
        "layers": given.layers,
        "hidden": given.hidden,
        "group_size": given.group_size,
        "decode": {"past": given.past, **decode},
        "prefill": {"tokens": given.prompt, **prefill},
        "decode_parts_ms": parts,
        "decode_over_products_and_attention": parts["step"] / bare,
        "environment": environment(),
    }
    print(json.dumps(result, indent=2))
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
