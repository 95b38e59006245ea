"""Memory and time of a whole compile, stage by stage: of Llama shapes, and of given models.

    python -m benchmarks.scale                        # writes benchmarks/results/scale.json
    python -m benchmarks.scale --shapes 0.2B 1.1B --formats onnx,ort,pt2,awq
    python -m benchmarks.scale --folder NAME=FOLDER --calib TEXT --effort default

A shape gets random weights, saved as a bfloat16 folder. A model is compiled in a process of its
own, which runs it forward over some calibration batches first. Memory is what the
system cannot drop: the anonymous resident pages (``RssAnon``) of the process, and of the ones that
it starts, sampled every 20 ms. Of each stage the table has the seconds and the largest sample;
``export`` and ``verify`` are shown by format as well. ``planned`` is what `awqc plan` says;
``program`` is what the quantized weights take, packed: the least that a process which holds all of
them needs. ``forward_cpu_s`` is the processor's time for one float run over all calibration data,
``ratio`` how many of these the compile takes, also by the processor's time: on a machine that
others use as well, it says more than the clock. Results of other models stay in the file.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "scale.json"
SHAPES: dict[str, dict[str, int]] = {
    "0.2B": {"hidden": 1024, "layers": 8, "vocabulary": 32000},
    "wide vocabulary": {"hidden": 256, "layers": 2, "vocabulary": 262144},
    "1.1B": {"hidden": 2048, "layers": 20, "vocabulary": 49152},
    "8B": {"hidden": 4096, "layers": 32, "vocabulary": 128256},
}
PAUSE = 0.02
FEW = 2
"""Batches whose run is timed."""
HEADS_OF, WIDTH_OF_HEAD = 4, 64
"""Heads of queries that share one of keys; the width of a head."""


def save_model(folder: Path, hidden: int, layers: int, vocabulary: int) -> None:
    """A Llama with random weights, in bfloat16."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    heads = hidden // WIDTH_OF_HEAD
    config = LlamaConfig(
        hidden_size=hidden,
        intermediate_size=hidden * 11 // 4,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=max(1, heads // HEADS_OF),
        vocab_size=vocabulary,
        tie_word_embeddings=False,
        dtype=torch.bfloat16,
    )
    torch.manual_seed(0)
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        model = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(default)
    model.save_pretrained(folder)


def compile_marked(folder: Path, marks: Path, options: dict[str, Any]) -> None:
    """Compile, and write when each stage began, by the system's clock, to ``marks``."""
    from awqc.export.formats import FORMATS
    from awqc.passes.pipeline import PASSES
    from awqc.passes.planning import Plan

    compiler: Any = import_module("awqc.compiler")  # whose functions are looked at as they are
    verification: Any = import_module("awqc.verify.verification")

    found: list[tuple[float, str, float]] = []

    def mark(stage: str) -> None:
        found.append((time.monotonic(), stage, _processor_time()))

    def marked(function: Callable[..., Any], stage: Callable[..., str]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            mark(stage(*args, **kwargs))
            return function(*args, **kwargs)

        return call

    @contextmanager
    def showing(what: str) -> Any:
        mark(what.removesuffix(" …"))
        yield

    compiler.showing = showing
    for name, cls in PASSES.items():
        cls.apply = marked(cls.apply, lambda *_, name=name: name)
    for name, exporter in list(FORMATS.items()):
        write = marked(exporter.write, lambda *_, name=name: f"export {name}")
        FORMATS[name] = replace(exporter, write=write)
    verification.compare = marked(verification.compare, lambda *args: f"verify {args[4]}")
    plans: list[Plan] = []
    foreseen = compiler.plan_of

    def plan_of(*args: Any) -> Plan:
        plans.append(foreseen(*args))
        return plans[-1]

    compiler.plan_of = plan_of
    forward: list[float] = []
    load_data = compiler.load_data

    def load_and_run(program: Any, *args: Any) -> Any:
        data = load_data(program, *args)
        mark("forward")
        forward.append(_forward(program, data.batches))
        return data

    compiler.load_data = load_and_run
    compiler.check_published = marked(compiler.check_published, lambda *_: "verify published")
    compiler.write_recipe = marked(compiler.write_recipe, lambda *_: "recipe")
    calib = _calibration(folder, options)
    out = options.pop("output_dir")
    mark("capture")
    compiled = compiler.compile_graph(str(folder), calib=calib, output_dir=out, **options)
    mark("end")
    layers = compiled.report["layers"]
    content = {
        "marks": found,
        "packed": sum(layer["bytes"] for layer in layers),
        "plan": plans[0].as_dict() if plans else None,
        "forward": forward[0],
        "text": (compiled.report["verify"] or {}).get("text"),
        "device": _device_peak(),
    }
    marks.write_text(json.dumps(content))


def _device_peak() -> int | None:
    """Bytes that tensors on a GPU took at most; None without one."""
    import torch

    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None


def _calibration(folder: Path, options: dict[str, Any]) -> Any:
    """Text, or random tokens; what says how much of it becomes the compile's, or goes."""
    import numpy as np

    samples, tokens = options.pop("samples"), options.pop("tokens")
    text = options.pop("calib")
    if text is not None:
        options |= {"num_samples": samples, "seq_len": tokens}
        return text
    options["max_loss"] = "inf"  # Random weights: what 4 bits lose of them says nothing.
    vocabulary = json.loads((folder / "config.json").read_text())["vocab_size"]
    return {"input_ids": np.random.default_rng(0).integers(0, vocabulary, (samples, tokens))}


def _forward(program: Any, batches: Any) -> float:
    """The processor's seconds for one run over all ``batches``, from a few of them."""
    program.run(batches[0])  # the first touches the weights' file
    started = time.process_time()
    for batch in batches[:FEW]:
        program.run(batch)
    return (time.process_time() - started) * len(batches) / len(batches[:FEW])


def _processor_time() -> float:
    """Seconds of this process, and of those that it started."""
    ticks = 0
    for pid in started_by(os.getpid()):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    spent = os.times()
    ended = spent.children_user + spent.children_system
    return spent.user + spent.system + ended + ticks / os.sysconf("SC_CLK_TCK")


def anonymous(pid: int) -> int:
    """Bytes of ``RssAnon`` of a process; 0 where it is gone."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    lines = [line for line in text.splitlines() if line.startswith("RssAnon")]
    return int(lines[0].split()[1]) * 1024 if lines else 0


def started_by(pid: int) -> list[int]:
    """Processes that ``pid`` started, and those that these started."""
    found: list[int] = []
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            own = [int(each) for each in children.read_text().split()]
        except OSError:
            continue
        found += own + [each for child in own for each in started_by(child)]
    return found


def measure(folder: Path, scratch: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Compile ``folder`` in another process; peaks and seconds by stage."""
    marks = scratch / "marks.json"
    given = json.dumps({**options, "output_dir": str(scratch / "out")})
    command = [sys.executable, "-m", "benchmarks.scale", "--worker", str(folder), str(marks), given]
    process = subprocess.Popen(command)
    samples: list[tuple[float, int, int]] = []
    while process.poll() is None:
        own = anonymous(process.pid)
        others = sum(anonymous(pid) for pid in started_by(process.pid))
        samples.append((time.monotonic(), own, others))
        time.sleep(PAUSE)
    if process.returncode:
        raise SystemExit(f"the compile ended with code {process.returncode}")
    content = json.loads(marks.read_text())
    plan, stages = content["plan"], _stages(content["marks"], samples)
    foreseen = plan and {"planned_mb": _mb(plan["peak"]), "planned_s": round(plan["seconds"], 1)}
    spent = [stage for stage in stages if stage["stage"] != "forward"]
    processor = sum(stage["cpu_s"] for stage in spent)
    return {
        "program_mb": _mb(content["packed"]),
        **(foreseen or {}),
        "seconds": round(sum(stage["seconds"] for stage in spent), 1),
        "cpu_s": round(processor, 1),
        "forward_cpu_s": round(content["forward"], 1),
        "ratio": round(processor / content["forward"], 2),
        "peak_mb": _mb(max(own + others for _, own, others in samples)),
        **({} if content["device"] is None else {"device_peak_mb": _mb(content["device"])}),
        "text": content["text"],
        "stages": stages,
    }


def _stages(
    marks: list[tuple[float, str, float]], samples: list[tuple[float, int, int]]
) -> list[dict[str, Any]]:
    found = []
    for (start, stage, before), (end, _, after) in pairwise(marks):
        inside = [(own, others) for at, own, others in samples if start <= at < end]
        found.append(
            {
                "stage": stage,
                "seconds": round(end - start, 1),
                "cpu_s": round(after - before, 1),
                "began_mb": _mb(inside[0][0]) if inside else None,
                "peak_mb": _mb(max((own for own, _ in inside), default=0)),
                "others_mb": _mb(max((others for _, others in inside), default=0)),
            }
        )
    return found


def _mb(count: int) -> float:
    return round(count / 2**20, 1)


def main() -> None:
    """Measure, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="*", choices=SHAPES, default=["0.2B"])
    parser.add_argument("--folder", metavar="NAME=FOLDER", help="in place of shapes")
    parser.add_argument("--calib", help="a file of text; by default tokens are random")
    parser.add_argument("--formats", default="onnx,ort,pt2,awq,compressed-tensors")
    parser.add_argument("--effort", default="fast")
    parser.add_argument("--device", default="cpu", help="where passes compute, as awqc takes it")
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        folder, marks, options = given.worker
        compile_marked(Path(folder), Path(marks), json.loads(options))
        return
    options = {
        "formats": given.formats.split(","),
        "effort": given.effort,
        "device": given.device,
        "samples": given.samples,
        "tokens": given.tokens,
        "calib": given.calib,
    }
    folders = dict([given.folder.split("=", 1)]) if given.folder else dict.fromkeys(given.shapes)
    for name, place in folders.items():
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(place or Path(scratch) / "model")
            if place is None:
                save_model(folder, **SHAPES[name])
            found = {**SHAPES.get(name, {}), **measure(folder, Path(scratch), options)}
        print(json.dumps(found, indent=1), flush=True)
        told = {**options, "calib": "text" if given.calib else "random tokens"}
        keep(given.out, name, {"options": told, **found})


def keep(file: Path, name: str, found: dict[str, Any]) -> None:
    """Put what was found beside the results of other models."""
    results = json.loads(file.read_text()) if file.is_file() else {}
    asked = found["options"]
    where = "" if asked["device"] == "cpu" else f", {asked['device']}"
    results[f"{name}, {asked['samples']} x {asked['tokens']}, {asked['effort']}{where}"] = found
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
