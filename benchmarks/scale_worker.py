"""A compile that tells what it does as it goes, for `benchmarks.scale`, which watches it."""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.processes import processor_time

FORWARD, END = "forward", "end"
"""Stages: that in which the float model is run, and what comes behind all of them."""
FEW = 2
"""Batches whose run is timed."""


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
        self.tell(mark=(now, stage, processor_time(), _device_peak()))


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
