"""Memory and time of a whole compile, stage by stage: of Llama shapes, and of given models.

    python -m benchmarks.scale                        # writes benchmarks/results/scale.json
    python -m benchmarks.scale --shapes 0.2B 1.1B --formats onnx,ort,pt2,awq
    python -m benchmarks.scale --folder NAME=FOLDER --calib TEXT --effort default
    python -m benchmarks.scale --shapes 1.1B --formats onnx --samples 16 --tokens 512 --device cuda

A shape gets random weights, saved as a bfloat16 folder. A model is compiled in a process of its
own, which runs it forward over some calibration batches first. Memory is what the
system cannot drop: the anonymous resident pages (``RssAnon``) of the process, and of the ones that
it starts, sampled every 20 ms. Of each stage the table has the seconds and the largest sample;
``export`` and ``verify`` are shown by format as well. ``planned`` is what `awqc plan` says;
``program`` is what the quantized weights take, packed: the least that a process which holds all of
them needs. ``forward_cpu_s`` is the processor's time for one float run over all calibration data,
``ratio`` how many of these the compile takes, also by the processor's time: on a machine that
others use as well, it says more than the clock. With ``--device`` the run is there: ``forward_s``
and ``ratio`` are by the clock, weights brought there included, and ``device_mb`` is what tensors
took there at most in a stage. ``--limit`` ends a compile after so many seconds; what was seen until
then is kept, with what ended it. Results of other models stay in the file.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import signal
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
SHAPES: dict[str, dict[str, Any]] = {
    "0.2B": {"hidden": 1024, "layers": 8, "vocabulary": 32000},
    "wide vocabulary": {"hidden": 256, "layers": 2, "vocabulary": 262144},
    "1.1B": {"hidden": 2048, "layers": 20, "vocabulary": 49152},
    "8B": {"hidden": 4096, "layers": 32, "vocabulary": 128256},
}
FORWARD, END = "forward", "end"
"""Stages: that in which the float model is run, and what comes behind all of them."""
PAUSE = 0.02
PATIENCE = 10
"""Seconds for a compile that is asked to end."""
FEW = 2
"""Batches whose run is timed."""
HEADS_OF, WIDTH_OF_HEAD = 4, 64
"""Heads of queries that share one of keys; the width of a head."""


def save_model(
    folder: Path, hidden: int, layers: int, vocabulary: int, device: str = "cpu"
) -> None:
    """A Llama with random weights, in bfloat16; drawn on ``device``, whose numbers are its own."""
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
        with torch.device(device):
            model = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(default)
    model.save_pretrained(folder)
    del model
    if device != "cpu":
        gc.collect()
        torch.cuda.empty_cache()


class Log:
    """What a compile tells as it goes, a line of JSON each; to be read at any time."""

    def __init__(self, path: Path) -> None:
        self._path, self._began = path, time.monotonic()

    def tell(self, **found: Any) -> None:
        """Add what was ``found``."""
        with self._path.open("a") as file:
            file.write(json.dumps(found) + "\n")

    def mark(self, stage: str) -> None:
        """``stage`` begins now, by the system's clock."""
        now = time.monotonic()
        print(f"{now - self._began:8.1f} s  {stage}", file=sys.stderr, flush=True)
        self.tell(mark=(now, stage, _processor_time(), _device_peak()))


def read_log(path: Path) -> dict[str, Any]:
    """All that a `Log` was told, its marks in a list."""
    lines = [
        json.loads(line) for line in path.read_text().splitlines(keepends=True) if "\n" in line
    ]
    marks = [line["mark"] for line in lines if "mark" in line]
    return {key: value for line in lines for key, value in line.items()} | {"marks": marks}


def compile_marked(folder: Path, marks: Path, options: dict[str, Any]) -> None:
    """Compile, and write what is seen on the way to ``marks``."""
    from awqc.export.formats import FORMATS
    from awqc.passes.pipeline import PASSES
    from awqc.passes.planning import Plan

    compiler: Any = import_module("awqc.compiler")  # whose functions are looked at as they are
    verification: Any = import_module("awqc.verify.verification")
    log = Log(marks)

    def marked(function: Callable[..., Any], stage: Callable[..., str]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            log.mark(stage(*args, **kwargs))
            return function(*args, **kwargs)

        return call

    @contextmanager
    def showing(what: str) -> Any:
        log.mark(what.removesuffix(" …"))
        yield

    compiler.showing = showing
    for name, cls in PASSES.items():
        cls.apply = marked(cls.apply, lambda *_, name=name: name)
    for name, exporter in list(FORMATS.items()):
        write = marked(exporter.write, lambda *_, name=name: f"export {name}")
        FORMATS[name] = replace(exporter, write=write)
    verification.compare = marked(verification.compare, lambda *args: f"verify {args[4]}")
    foreseen = compiler.plan_of

    def plan_of(*args: Any) -> Plan:
        plan: Plan = foreseen(*args)
        log.tell(plan=plan.as_dict())
        return plan

    compiler.plan_of = plan_of
    load_data, device = compiler.load_data, options["device"]

    def load_and_run(program: Any, *args: Any) -> Any:
        data = load_data(program, *args)
        log.mark(FORWARD)
        log.tell(forward=_forward(program, data.batches, device))
        log.mark("data")
        return data

    compiler.load_data = load_and_run
    compiler.check_published = marked(compiler.check_published, lambda *_: "verify published")
    compiler.write_recipe = marked(compiler.write_recipe, lambda *_: "recipe")
    calib = _calibration(folder, options)
    out = options.pop("output_dir")
    log.mark("capture")
    compiled = compiler.compile_graph(str(folder), calib=calib, output_dir=out, **options)
    log.mark(END)
    packed = sum(layer["bytes"] for layer in compiled.report["layers"])
    log.tell(packed=packed, text=(compiled.report["verify"] or {}).get("text"))


def _device_peak() -> int | None:
    """Bytes that tensors on a GPU took at most since this was asked last; None without one."""
    import torch

    if not torch.cuda.is_available():
        return None
    peak = torch.cuda.max_memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    return peak


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


def _forward(program: Any, batches: Any, device: str) -> float:
    """Seconds for one run over all ``batches``, from a few of them: of the processor's time.

    On another device by the clock, of all of them, its weights brought there included.
    """
    import torch

    from awqc.machine.devices import moved, placed

    if device == "cpu":
        program.run(batches[0])  # the first touches the weights' file
        started = time.process_time()
        for batch in batches[:FEW]:
            program.run(batch)
        return (time.process_time() - started) * len(batches) / len(batches[:FEW])
    there = torch.device(device)
    started = time.monotonic()
    module = placed(program.graph_module, there)
    with torch.no_grad():
        for batch in batches:
            module(*(moved(batch[spec.name], there) for spec in program.inputs))
    torch.cuda.synchronize()
    seconds = time.monotonic() - started
    del module
    gc.collect()
    torch.cuda.empty_cache()
    return seconds


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


def measure(
    folder: Path, scratch: Path, options: dict[str, Any], limit: float | None = None
) -> dict[str, Any]:
    """Compile ``folder`` in another process; peaks and seconds by stage."""
    marks = scratch / "marks.jsonl"
    given = json.dumps({**options, "output_dir": str(scratch / "out")})
    command = [sys.executable, "-m", "benchmarks.scale", "--worker", str(folder), str(marks), given]
    began = time.monotonic()
    process = subprocess.Popen(command)
    samples: list[tuple[float, int, int]] = []
    ended: str | None = None
    while process.poll() is None:
        own = anonymous(process.pid)
        others = sum(anonymous(pid) for pid in started_by(process.pid))
        samples.append((time.monotonic(), own, others))
        time.sleep(PAUSE)
        if limit is not None and time.monotonic() - began > limit:
            ended = f"the limit of {limit:g} s"
            process.send_signal(signal.SIGINT)
            break
    try:
        process.wait(None if ended is None else PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
    if process.wait() and ended is None:
        ended = f"an error, code {process.returncode}"
    content = read_log(marks)
    if content["marks"][-1][1] != END:
        last = samples[-1][0]
        content["marks"].append((last, END, content["marks"][-1][2], None))
    return {**_numbers(content, samples, options["device"]), **({"ended": ended} if ended else {})}


def _numbers(
    content: dict[str, Any], samples: list[tuple[float, int, int]], device: str
) -> dict[str, Any]:
    """What a compile took, of what it told and what was seen of it."""
    plan, stages = content.get("plan"), _stages(content["marks"], samples)
    foreseen = plan and {"planned_mb": _mb(plan["peak"]), "planned_s": round(plan["seconds"], 1)}
    spent = [stage for stage in stages if stage["stage"] != FORWARD]
    processor = round(sum(stage["cpu_s"] for stage in spent), 1)
    seconds = round(sum(stage["seconds"] for stage in spent), 1)
    peaks = [stage["device_mb"] for stage in spent if stage.get("device_mb") is not None]
    forward, name, own = content.get("forward"), "forward_cpu_s", processor
    if device != "cpu":
        name, own = "forward_s", seconds
    return {
        **({"program_mb": _mb(content["packed"])} if "packed" in content else {}),
        **(foreseen or {}),
        "seconds": seconds,
        "cpu_s": processor,
        **({name: round(forward, 2), "ratio": round(own / forward, 2)} if forward else {}),
        "peak_mb": _mb(max(own + others for _, own, others in samples)),
        **({"device_peak_mb": max(peaks)} if peaks else {}),
        "text": content.get("text"),
        "stages": _summed(stages),
    }


def _summed(stages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One for all ``stages`` of one name, which may come once a segment: sums, and the most."""
    found: dict[str, dict[str, Any]] = {}
    for stage in stages:
        whole = found.setdefault(stage["stage"], {**stage, "times": 0, "seconds": 0, "cpu_s": 0})
        whole["times"] += 1
        for name in ("seconds", "cpu_s"):
            whole[name] = round(whole[name] + stage[name], 1)
        for name in ("peak_mb", "others_mb", *(["device_mb"] if "device_mb" in stage else [])):
            whole[name] = max(whole.get(name, 0), stage[name])
    return list(found.values())


def _stages(
    marks: list[tuple[float, str, float, int | None]], samples: list[tuple[float, int, int]]
) -> list[dict[str, Any]]:
    found = []
    for (start, stage, before, _), (end, _, after, device) in pairwise(marks):
        inside = [(own, others) for at, own, others in samples if start <= at < end]
        found.append(
            {
                "stage": stage,
                "seconds": round(end - start, 1),
                "cpu_s": round(after - before, 1),
                "began_mb": _mb(inside[0][0]) if inside else None,
                "peak_mb": _mb(max((own for own, _ in inside), default=0)),
                "others_mb": _mb(max((others for _, others in inside), default=0)),
                **({} if device is None else {"device_mb": _mb(device)}),
            }
        )
    return found


def _machine(device: str) -> dict[str, Any]:
    """What the numbers of a device are of; nothing of the CPU, whose are told by their ratio."""
    import torch

    if device == "cpu":
        return {}
    card = torch.cuda.get_device_name(torch.device(device))
    return {"card": card, "cores": os.cpu_count(), "torch": str(torch.__version__)}


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
    parser.add_argument("--memory", help="to stay within, as awqc takes it")
    parser.add_argument("--limit", type=float, help="seconds after which a compile is ended")
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
        "memory": given.memory,
        "samples": given.samples,
        "tokens": given.tokens,
        "calib": given.calib,
    }
    folders = dict([given.folder.split("=", 1)]) if given.folder else dict.fromkeys(given.shapes)
    for name, place in folders.items():
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(place or Path(scratch) / "model")
            if place is None:
                save_model(folder, **SHAPES[name], device=given.device)
            found = measure(folder, Path(scratch), options, given.limit)
        found = {**SHAPES.get(name, {}), **_machine(given.device), **found}
        print(json.dumps(found, indent=1), flush=True)
        told = {**options, "calib": "text" if given.calib else "random tokens"}
        keep(given.out, name, {"options": told, **found})
        if found.get("ended", "").startswith("an error"):
            raise SystemExit(f"the compile ended with {found['ended']}")


def keep(file: Path, name: str, found: dict[str, Any]) -> None:
    """Put what was found beside the results of other models."""
    results = json.loads(file.read_text()) if file.is_file() else {}
    asked = found["options"]
    where = "" if asked["device"] == "cpu" else f", {asked['device']}"
    if asked.get("memory"):
        where += f", within {asked['memory']}"
    results[f"{name}, {asked['samples']} x {asked['tokens']}, {asked['effort']}{where}"] = found
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
