"""One model in a process of its own: ``python -m awqc.bench.worker SPEC``, started by a benchmark.

SPEC is JSON. The answer to loading, and then to each line on stdin, is a line of JSON on stdout.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from awqc.bench.models import BenchModel, FloatModel, open_onnx, open_whole
from awqc.bench.workload import Workload, make_inputs
from awqc.errors import AwqcError
from awqc.runtimes.session_file import ORT_ERRORS

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


RUNTIME_ERRORS: tuple[type[Exception], ...] = (RuntimeError, OSError, *ORT_ERRORS)
"""What a runtime raises that cannot open or run a model."""


def load_model(spec: dict[str, Any]) -> BenchModel:
    """The model that ``spec`` describes."""
    if spec["kind"] == "onnx":
        return open_onnx(Path(spec["path"]), spec["provider"], spec["threads"])
    if spec["kind"] == "whole":
        tokens = Workload(**spec["workload"]).new_tokens
        return open_whole(Path(spec["folder"]), spec["provider"], spec["threads"], tokens)
    export = Path(spec["export"]) if spec["export"] else None
    model = FloatModel(spec["source"], spec["inputs"], spec["how"], spec["threads"], export)
    gc.collect()
    forget_peak()
    return model


def turn(model: BenchModel, workload: Workload) -> dict[str, list[float]]:
    """Seconds of runs: ``latency``, or ``prefill`` and ``decode`` (one for each token)."""
    if model.states:
        return _generate(model, workload)
    values = model.hold(make_inputs(model.inputs, workload, workload.tokens))
    model.step(values)
    taken: list[float] = []
    while not taken or sum(taken) < workload.seconds:
        taken.append(_timed(model, values)[0])
    return {"latency": taken}


def _generate(model: BenchModel, workload: Workload) -> dict[str, list[float]]:
    prompt = model.hold(make_inputs(model.inputs, workload, workload.tokens))
    seconds, carried = _timed(model, prompt)
    decode = []
    for step in range(workload.new_tokens):
        arrays = make_inputs(model.inputs, workload, 1, workload.tokens + step)
        fresh = {name: array for name, array in arrays.items() if name not in carried}
        took, carried = _timed(model, model.hold(fresh) | carried)
        decode.append(took)
    return {"prefill": [seconds], "decode": decode}


def _timed(model: BenchModel, values: dict[str, Any]) -> tuple[float, dict[str, Any]]:
    started = time.perf_counter()
    _, carried = model.step(values)
    return time.perf_counter() - started, carried


def peak_bytes() -> int:
    """The most memory that this process has held."""
    if STATUS.is_file():
        line = next(row for row in STATUS.read_text().splitlines() if row.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def forget_peak() -> None:
    """Count the peak anew from what is held now, where the system can."""
    if os.access(CLEAR, os.W_OK):
        CLEAR.write_text("5")


def main() -> None:
    """Load, then take turns until stdin ends."""
    spec = json.loads(sys.argv[1])
    workload = Workload(**spec["workload"])
    answers, sys.stdout = sys.stdout, sys.stderr

    def answer(content: dict[str, Any]) -> None:
        print(json.dumps(content), file=answers, flush=True)

    if spec["kind"] != "torch":
        import onnxruntime  # noqa: F401  its import is no part of loading a model
    clocks = time.perf_counter(), time.process_time()
    try:
        model = load_model(spec)
        loaded = {"wall": time.perf_counter() - clocks[0], "cpu": time.process_time() - clocks[1]}
        answer({"load": loaded, "inputs": [str(item.name) for item in model.inputs]})
        for _ in sys.stdin:
            answer({"turn": turn(model, workload), "peak_bytes": peak_bytes()})
    except AwqcError as error:
        answer({"error": error.text, "exit_code": error.exit_code})
    except RUNTIME_ERRORS as error:
        answer({"error": str(error).strip().splitlines()[0], "exit_code": 1})
    except Exception:
        answer({"fault": traceback.format_exc()})
        raise


if __name__ == "__main__":
    main()
