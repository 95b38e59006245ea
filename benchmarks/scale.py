"""Memory and time of a whole compile, stage by stage, of Llama shapes with random weights.

    python -m benchmarks.scale                        # writes benchmarks/results/scale.json
    python -m benchmarks.scale --shapes 0.2B 1.1B --formats onnx,ort,pt2,awq

A model is saved as a bfloat16 folder and compiled in a process of its own. Memory is what the
system cannot drop: the anonymous resident pages (``RssAnon``) of the process, and of the ones that
it starts, sampled every 20 ms. Of each stage the table has the seconds and the largest sample;
``export`` and ``verify`` are shown by format as well. ``planned`` is what `awqc plan` says;
``program`` is what the quantized weights take, packed: the least that a process which holds all of
them needs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "scale.json"
SHAPES: dict[str, dict[str, int]] = {
    "0.2B": {"hidden": 1024, "layers": 8, "vocabulary": 32000},
    "wide vocabulary": {"hidden": 256, "layers": 2, "vocabulary": 262144},
    "1.1B": {"hidden": 2048, "layers": 20, "vocabulary": 49152},
}
PAUSE = 0.02
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
    import numpy as np

    import awqc.compiler as compiler
    from awqc.export.formats import FORMATS
    from awqc.passes.pipeline import PASSES
    from awqc.passes.planning import Plan
    from awqc.verify import verification

    found: list[tuple[float, str]] = []

    def mark(stage: str) -> None:
        found.append((time.monotonic(), stage))

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
    compiler.check_published = marked(compiler.check_published, lambda *_: "verify published")
    compiler.write_recipe = marked(compiler.write_recipe, lambda *_: "recipe")
    tokens = options.pop("samples"), options.pop("tokens")
    vocabulary = json.loads((folder / "config.json").read_text())["vocab_size"]
    ids = np.random.default_rng(0).integers(0, vocabulary, tokens)
    out = options.pop("output_dir")
    mark("capture")
    options["max_loss"] = "inf"  # Random weights: what 4 bits lose of them says nothing.
    compiled = compiler.compile(str(folder), calib={"input_ids": ids}, output_dir=out, **options)
    mark("end")
    layers = compiled.report["layers"]
    content = {
        "marks": found,
        "packed": sum(layer["bytes"] for layer in layers),
        "plan": plans[0].as_dict() if plans else None,
    }
    marks.write_text(json.dumps(content))


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
    plan = content["plan"]
    foreseen = plan and {"planned_mb": _mb(plan["peak"]), "planned_s": round(plan["seconds"], 1)}
    return {
        "program_mb": _mb(content["packed"]),
        **(foreseen or {}),
        "seconds": round(content["marks"][-1][0] - content["marks"][0][0], 1),
        "peak_mb": _mb(max(own + others for _, own, others in samples)),
        "stages": _stages(content["marks"], samples),
    }


def _stages(
    marks: list[tuple[float, str]], samples: list[tuple[float, int, int]]
) -> list[dict[str, Any]]:
    found = []
    for (start, stage), (end, _) in pairwise(marks):
        inside = [(own, others) for at, own, others in samples if start <= at < end]
        found.append(
            {
                "stage": stage,
                "seconds": round(end - start, 1),
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
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["0.2B"])
    parser.add_argument("--formats", default="onnx,ort,pt2,awq,compressed-tensors")
    parser.add_argument("--effort", default="fast")
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
        "samples": given.samples,
        "tokens": given.tokens,
    }
    results: dict[str, Any] = {"options": options, "shapes": {}}
    for name in given.shapes:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "model"
            save_model(folder, **SHAPES[name])
            results["shapes"][name] = {**SHAPES[name], **measure(folder, Path(scratch), options)}
        print(json.dumps(results["shapes"][name], indent=1))
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
