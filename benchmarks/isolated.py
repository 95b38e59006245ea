"""Run a function in a process of its own, under a time limit."""

from __future__ import annotations

import multiprocessing
import time
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

PRELOADED = (
    "benchmarks.zoo_models",
    "awqc.front_door",
    "onnxruntime",
    "transformers",
    "transformers.modeling_utils",
)

Reached = Callable[[str], None]
"""Called with the name of a stage that begins."""


def isolated(
    function: Callable[[Reached], dict[str, Any]], timeout: float, stage: str
) -> dict[str, Any]:
    """What ``function`` returns, and how long it took.

    It runs in a process forked from one that has imported what all need. Where it crashes or
    takes longer than ``timeout`` seconds, the result tells so, and in which stage.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_report, args=(function, there))
    started = time.perf_counter()
    process.start()
    there.close()
    result = None
    try:
        while result is None and here.poll(timeout - (time.perf_counter() - started)):
            message = here.recv()
            stage, result = (message, None) if isinstance(message, str) else (stage, message)
    except EOFError:
        result = {"stage": "crash", "error": "the process ended without a result"}
    process.kill()
    process.join()
    if result is None:
        return {"stage": stage, "type": "timeout", "error": f"took more than {timeout:.0f} s"}
    return {**result, "seconds": round(time.perf_counter() - started, 1)}


def _report(function: Callable[[Reached], dict[str, Any]], pipe: Connection) -> None:
    warnings.simplefilter("ignore")
    pipe.send(function(pipe.send))
