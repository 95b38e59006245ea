"""The demonstration from training to comparison; everything it finds, as plain values."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from awqc.artifacts.scratch import scratch_folder
from awqc.capture.module import capture_module
from awqc.compiler import Compiled, compile_graph
from awqc.data.calibration import CalibrationData
from awqc.demo.data import ToyTask, load_task
from awqc.demo.network import accuracy, build_network, train
from awqc.demo.observe import Excerpts
from awqc.errors import UsageError, spelled
from awqc.machine.threads import single_threaded
from awqc.numerics.formats.int_grid import Bits
from awqc.program import Program
from awqc.runtimes.onnxruntime import Provider, load

NEAREST = "canonicalize,quantize-weights"
SHOWN_LOSS = float("inf")
"""Losses are what is shown, however large."""
CALIBRATION_SAMPLES = 512
CALIBRATION_BATCH = 128
SHOWN_SAMPLES = 3


@dataclass(frozen=True)
class Demo:
    """A finished demonstration.

    Attributes:
        report: all that it found, as plain values.
        network: the trained float network.
        task: its data.
        compiled: the AWQ compiles by bits.
    """

    report: dict[str, Any]
    network: nn.Module
    task: ToyTask
    compiled: dict[int, Compiled]

    def write(self, folder: Path) -> None:
        """Write the network, its data and each compile into ``folder``."""
        torch.save(self.network, folder / "model.pt")
        samples = {"calib": _calibration_samples(self.task), "test": self.task.test_x}
        for file, inputs in samples.items():
            arrays: dict[str, Any] = {self.report["input"]: inputs.numpy()}
            np.savez(folder / f"{file}.npz", **arrays)
        np.save(folder / "test-labels.npy", self.task.test_y.numpy())
        for bits, compiled in self.compiled.items():
            compiled.save(folder / f"{bits}-bit")


def parse_dims(text: str) -> tuple[int, ...]:
    """Widths written as ``64,128,10``.

    Raises:
        UsageError: they are not at least two positive numbers, the last at least 2.
    """
    parts = [part.strip() for part in text.split(",")]
    if len(parts) < 2 or not all(part.isdigit() and int(part) for part in parts):
        raise UsageError(
            f"{spelled('dims', text)}: give the widths of input, hidden layers and output, "
            "as 64,128,256,128,10"
        )
    dims = tuple(int(part) for part in parts)
    if dims[-1] < 2:
        raise UsageError(f"{spelled('dims', text)}: the last is the number of classes, at least 2")
    return dims


def run_demo(
    dims: Sequence[int],
    bits: Sequence[Bits],
    *,
    epochs: int,
    seed: int = 0,
    provider: Provider = "auto",
    say: Callable[[str], object] = lambda text: None,
) -> Demo:
    """Train the network of ``dims``, compile it at each of ``bits``, compare with rounding.

    ``say`` is told what happens next.

    Raises:
        UsageError: scikit-learn is needed and missing, or the provider does not work.
    """
    # On matrices this small, threads wait for each other longer than they work.
    with single_threaded():
        return _run(dims, bits, epochs, seed, provider, say)


def _run(
    dims: Sequence[int],
    bits: Sequence[Bits],
    epochs: int,
    seed: int,
    provider: Provider,
    say: Callable[[str], object],
) -> Demo:
    started = time.perf_counter()
    task = load_task(dims, seed)
    network = build_network(dims, seed)
    say(f"training on {task.description}")
    train(network, task, epochs, seed)
    trained = time.perf_counter()
    program = capture_module(network, (task.train_x[:8],))
    compiled: dict[int, Compiled] = {}
    outputs: dict[int, Tensor] = {}
    watch, results = Excerpts(), []
    for width in bits:
        say(f"compiling at {width} bits, by AWQ and by rounding to nearest")
        watch = Excerpts()
        compiled[width], entry = _compile_both(program, task, width, provider, watch)
        results.append(entry)
        outputs[width] = _call(compiled[width].graph_module, task.test_x)
    report = {
        "schema": 1,
        "dims": list(dims),
        "seed": seed,
        "epochs": epochs,
        "input": program.inputs[0].name,
        "data": _describe(task),
        "float": {
            "accuracy": accuracy(network, task),
            "parameters": sum(value.numel() for value in network.parameters()),
        },
        "weights": watch.weights,
        "activations": watch.activations,
        "compiles": results,
        "outputs": _samples(task, _call(network, task.test_x), outputs),
        "timing_s": {
            "train": round(trained - started, 3),
            "total": round(time.perf_counter() - started, 3),
        },
    }
    return Demo(report, network, task, compiled)


def _compile_both(
    program: Program, task: ToyTask, bits: Bits, provider: Provider, watch: Excerpts
) -> tuple[Compiled, dict[str, Any]]:
    """Compile by AWQ and by rounding to nearest; the first, and both in numbers."""
    data = _calibration(program, task)
    options: dict[str, Any] = {"bits": bits, "provider": provider, "max_loss": SHOWN_LOSS}
    awq = compile_graph(program.clone(), calib=data, observe=watch, **options)
    nearest = compile_graph(program.clone(), calib=data, pipeline=NEAREST, **options)
    name = program.inputs[0].name
    return awq, {
        "bits": bits,
        "sites": awq.report["sites"],
        "quantized": watch.quantized,
        "awq": _result(awq, task, name, provider),
        "nearest": _result(nearest, task, name, provider),
    }


def _describe(task: ToyTask) -> dict[str, Any]:
    return {
        "description": task.description,
        "synthetic": task.synthetic,
        "train": len(task.train_x),
        "calibration": len(_calibration_samples(task)),
        "test": len(task.test_x),
    }


def _calibration_samples(task: ToyTask) -> Tensor:
    return task.train_x[:CALIBRATION_SAMPLES]


def _calibration(program: Program, task: ToyTask) -> CalibrationData:
    """Training samples to calibrate on, test samples to verify on."""
    name = program.inputs[0].name
    batches = _calibration_samples(task).split(CALIBRATION_BATCH)
    return CalibrationData(
        tuple({name: batch} for batch in batches),
        ({name: task.test_x},),
        source=f"training samples: {task.description}",
    )


def _result(compiled: Compiled, task: ToyTask, name: str, provider: Provider) -> dict[str, Any]:
    """What a user gets from a compile: in torch, and in onnxruntime."""
    report = compiled.report
    with scratch_folder() as folder:
        session = load(compiled.save(folder / "model"), provider)
        exported = accuracy(lambda x: session.run({name: x})[0], task)
    return {
        "accuracy": {"torch": accuracy(compiled.graph_module, task), "onnxruntime": exported},
        "provider": session.provider,
        "original": report["verify"]["original"],
        "layers": report["layers"],
        "size": report["size"],
    }


def _call(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        value = model(x)
    assert isinstance(value, Tensor)
    return value


def _samples(task: ToyTask, before: Tensor, after: dict[int, Tensor]) -> list[dict[str, Any]]:
    """Outputs for a few test samples: the first ones, and the one that moved most."""
    moved = sum((value - before).abs().amax(-1) for value in after.values())
    assert isinstance(moved, Tensor)
    chosen = [*range(min(SHOWN_SAMPLES - 1, len(before) - 1)), int(moved.argmax())]
    return [
        {
            "sample": index,
            "class": int(task.test_y[index]),
            "float": before[index].tolist(),
            **{f"{bits}-bit": value[index].tolist() for bits, value in after.items()},
        }
        for index in dict.fromkeys(chosen)
    ]
