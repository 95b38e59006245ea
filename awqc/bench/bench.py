"""Measure a compiled folder beside its original: each form in its own process, in turns."""

from __future__ import annotations

import json
import os
import statistics
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from awqc.artifacts.scratch import scratch_folder
from awqc.bench.workload import Workload
from awqc.errors import AwqcError, UsageError, spelled
from awqc.machine.child import Child, ChildGone
from awqc.machine.progress import stage
from awqc.report.content import environment
from awqc.runtimes.onnxruntime import Provider, Session, resolve_provider
from awqc.runtimes.session_file import MODEL, TUNED
from awqc.sources.source import brings_inputs

SAFE_PATH = "-P"
"""Keeps Python from importing what lies in the working directory."""

FLOAT_ONNX, FLOAT_TORCH = "float onnx", "float torch"
QUANTIZED = {"quantized ort": Path(TUNED) / MODEL, "quantized onnx": Path(MODEL)}

Spec = dict[str, Any]
"""What a worker is told of the form that it runs."""


@dataclass
class Worker:
    """A process that runs one form.

    Attributes:
        load: seconds that loading took, ``wall`` and ``cpu``.
        peak_bytes: the most memory that it held.
        seconds: of all runs, by what was run.
    """

    name: str
    process: Child
    load: dict[str, float] = field(default_factory=dict)
    peak_bytes: int = 0
    seconds: dict[str, list[float]] = field(default_factory=dict)

    def loaded(self) -> None:
        """Wait until the model is loaded."""
        self.load = self._answer()["load"]

    def take_turn(self, counts: bool) -> None:
        """Run once through the workload."""
        try:
            self.process.tell("turn")
        except ChildGone as gone:
            raise self._gone(gone) from None
        answer = self._answer()
        self.peak_bytes = answer["peak_bytes"]
        for what, taken in answer["turn"].items() if counts else ():
            self.seconds.setdefault(what, []).extend(taken)

    def _answer(self) -> dict[str, Any]:
        try:
            content = self.process.answer()
        except ChildGone as gone:
            raise self._gone(gone) from None
        if "fault" in content:
            raise RuntimeError(f"{self.name}: {content['fault']}")
        if "error" in content:
            kind = UsageError if content["exit_code"] == UsageError.exit_code else AwqcError
            raise kind(f"{self.name}: {content['error']}")
        return content

    def _gone(self, gone: ChildGone) -> AwqcError:
        return AwqcError(
            f"{self.name}: its process ended with code {gone.code}, for want of memory perhaps"
        )

    def result(self, workload: Workload, load_counts: bool) -> dict[str, Any]:
        """Medians; loading what is more than a session says nothing, and does not count."""
        median = {what: statistics.median(taken) for what, taken in self.seconds.items()}
        found: dict[str, Any] = {
            "load_s": self.load["wall"] if load_counts else None,
            "load_cpu_s": self.load["cpu"] if load_counts else None,
            "peak_rss_bytes": self.peak_bytes,
        }
        if "latency" in median:
            found["latency_ms"] = median["latency"] * 1000
        else:
            found["prefill_tokens_per_s"] = workload.batch * workload.tokens / median["prefill"]
            found["decode_tokens_per_s"] = workload.batch / median["decode"]
        return found


def bench(
    folder: Path,
    *,
    against: str | None = None,
    workload: Workload | None = None,
    turns: int = 5,
    threads: int = 0,
    provider: Provider = "auto",
    trust_pickle: bool = False,
    weights: str | Path | None = None,
    adapter: str | Path | None = None,
    task: str | None = None,
    trust_remote_code: bool = False,
) -> dict[str, Any]:
    """Measure all forms in ``folder`` and, with ``against``, the original as ONNX and in PyTorch.

    Args:
        folder: what ``awqc compile`` wrote.
        against: the original, as ``awqc compile`` took it.
        workload: what to run.
        turns: how often each form has its turn; a first one does not count.
        threads: of each form; 0: as many as there are processors.
        provider: where onnxruntime runs.
        trust_pickle: as in compile, for ``against``; so are ``weights``, ``adapter``, ``task``
            and ``trust_remote_code``.

    Raises:
        UsageError: there is no model, or the original cannot be loaded.
        AwqcError: a form does not run.
    """
    workload = workload or Workload()
    paths = {name: folder / path for name, path in QUANTIZED.items() if (folder / path).is_file()}
    if not paths:
        raise UsageError(
            f"{folder}: has no {MODEL}; give the output folder of a compile with "
            f"{spelled('formats', 'onnx')}"
        )
    device = resolve_provider(provider)
    with scratch_folder() as scratch:
        specs: dict[str, Spec] = {}
        if against is not None:
            specs[FLOAT_TORCH] = {
                "kind": "torch",
                "source": against,
                "inputs": _specs(against, next(iter(paths.values()))),
                "how": {
                    "trust_pickle": trust_pickle,
                    "weights": None if weights is None else str(weights),
                    "adapter": None if adapter is None else str(adapter),
                    "task": task,
                    "trust_remote_code": trust_remote_code,
                },
                "export": str(scratch / MODEL),
            }
            paths[FLOAT_ONNX] = scratch / MODEL
        specs |= {name: onnx_spec(path, device) for name, path in paths.items()}
        return take_turns(folder.name, specs, workload, turns, threads, device)


def onnx_spec(path: Path, provider: str) -> Spec:
    """What a worker is told to run an ONNX model."""
    return {"kind": "onnx", "path": str(path), "provider": provider}


def take_turns(
    model: str,
    specs: Mapping[str, Spec],
    workload: Workload,
    turns: int,
    threads: int,
    provider: str,
) -> dict[str, Any]:
    """Measure forms that take turns, each loaded as its spec says, in this order.

    Raises:
        AwqcError: a form does not run.
    """
    threads = threads or _processors()
    common = {"threads": threads, "workload": asdict(workload)}
    with ExitStack() as stack:
        workers = {
            name: stack.enter_context(_worker(name, {**common, **spec}))
            for name, spec in specs.items()
        }
        for turn in range(turns + 1):
            with stage(f"turn {turn} of {turns} …"):
                for worker in workers.values():
                    worker.take_turn(counts=turn > 0)
    order = [*QUANTIZED, FLOAT_ONNX, FLOAT_TORCH]
    forms = {
        name: workers[name].result(workload, specs[name]["kind"] == "onnx")
        for name in order
        if name in workers
    }
    return {
        "model": model,
        "workload": asdict(workload),
        "turns": turns,
        "provider": provider,
        "threads": threads,
        "forms": forms,
        "ratios": _ratios(forms),
        "environment": environment(),
    }


def _ratios(forms: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """How many times better each form is than the float ONNX, or else than the QDQ form."""
    base = next((name for name in (FLOAT_ONNX, "quantized onnx") if name in forms), None)
    if base is None:
        return {}
    ratios: dict[str, dict[str, float]] = {}
    for name, found in forms.items():
        for what, value in found.items():
            reference = forms[base].get(what)
            if name != base and value and reference:
                better = value / reference if what.endswith("per_s") else reference / value
                ratios.setdefault(name, {})[what] = better
    return {"to": base, "forms": ratios}


def _processors() -> int:
    """Those that this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _specs(against: str, model: Path) -> list[str]:
    """Inputs of a pickled module or a factory, which does not tell them, from the model."""
    return [] if brings_inputs(against) else [str(spec) for spec in Session(model, "cpu").inputs]


@contextmanager
def _worker(name: str, spec: Mapping[str, Any]) -> Iterator[Worker]:
    """Start a process; when it is no longer needed it ends with its stdin."""
    command = [sys.executable, SAFE_PATH, "-m", "awqc.bench.worker", json.dumps(spec)]
    worker = Worker(name, Child(command))
    try:
        with stage(f"loading {name} …"):
            worker.loaded()
        yield worker
    finally:
        worker.process.end()
