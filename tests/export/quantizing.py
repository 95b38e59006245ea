"""Small models, quantized without any pass, for the tests of the exporters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from torch import Tensor, nn

from awqc.artifacts.scratch import scratch_folder
from awqc.capture.module import DynamicAxes, capture_module
from awqc.graph.linears import find_linears
from awqc.numerics.formats.base import WeightFormat
from awqc.numerics.formats.int_grid import IntGrid
from awqc.numerics.quantizing import quantize
from awqc.program import Program
from awqc.verify.fresh import FRESH
from awqc.weights.stored import store


def quantized(program: Program, *formats: WeightFormat) -> Program:
    """``program`` with every product's weight packed; the program itself is changed.

    The formats go round; a group as wide as the weight becomes one scale a row.
    """
    done: set[str] = set()
    for linear in find_linears(program.graph):
        name = linear.weight_name
        if name not in done:
            form = formats[len(done) % len(formats)]
            if isinstance(form, IntGrid) and form.group_size >= linear.columns:
                form = replace(form, group_size=-1)
            done.add(name)
            weight = quantize(program.weight(name), linear.rows, form)
            program.learn(quantized={**program.findings.quantized, name: weight})
            store(program, linear.weight, weight)
    program.tidy()
    return program


def captured(module: nn.Module, *inputs: Tensor, dynamic: DynamicAxes | None = None) -> Program:
    return capture_module(module, inputs, dynamic=dynamic)


def run_onnx(path: Path, feeds: Mapping[str, Tensor], level: int = 1) -> list[Tensor]:
    """Outputs of the model in onnxruntime on the CPU, at an accuracy level."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", str(level))
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    arrays = {name: tensor.numpy() for name, tensor in feeds.items()}
    return [torch.from_numpy(np.asarray(value)) for value in session.run(None, arrays)]


def in_torch_alone(archive: Path, *inputs: Tensor) -> list[Tensor]:
    """Outputs of the archive in a process that holds nothing of awqc."""
    with scratch_folder() as folder:
        given, made = folder / "inputs.pt", folder / "outputs.pt"
        torch.save([list(inputs)], given)
        job = {"kind": "torch", "path": str(archive), "inputs": str(given), "outputs": str(made)}
        assert FRESH.ask(job) is None
        (outputs,) = torch.load(made)
    return list(outputs["outputs"])


def relative_error(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    """Largest difference over the largest magnitude, of the worst output."""
    assert len(found) == len(wanted)
    worst = 0.0
    for a, b in zip(found, wanted, strict=True):
        assert a.shape == b.shape, (a.shape, b.shape)
        assert a.dtype == b.dtype, (a.dtype, b.dtype)
        scale = float(b.double().abs().max()) if b.numel() else 0.0
        gap = float((a.double() - b.double()).abs().max()) if b.numel() else 0.0
        worst = max(worst, gap / max(scale, 1e-30))
    return worst
