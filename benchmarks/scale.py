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
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.processes import anonymous, started_by
from benchmarks.scale_worker import END, FORWARD, compile_marked, read_log

RESULTS = Path(__file__).parent / "results" / "scale.json"
SHAPES: dict[str, dict[str, Any]] = {
    "0.2B": {"hidden": 1024, "layers": 8, "vocabulary": 32000},
    "wide vocabulary": {"hidden": 256, "layers": 2, "vocabulary": 262144},
    "1.1B": {"hidden": 2048, "layers": 20, "vocabulary": 49152},
    "8B": {"hidden": 4096, "layers": 32, "vocabulary": 128256},
}
PAUSE = 0.02
PATIENCE = 10
"""Seconds for a compile that is asked to end."""
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
