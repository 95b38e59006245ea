"""What quantization did to each layer: its weight, its output, and what piled up before it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Interpreter, Node

from awqc.linears import CONVOLUTIONS, Linear, find_linears
from awqc.program import Batch, Program

MAX_KEPT = 16_384


@dataclass(frozen=True)
class Layer:
    """A quantized weight in numbers; the keys of ``layers`` in report.json.

    Attributes:
        name: of the weight.
        op: of the operation that reads it.
        bits: of a code.
        group_size: weights that share a scale; -1: one scale a row.
        weight_error: ``|Q - W| / |W|``.
        output_sqnr_db: of this layer's output when it alone is quantized, over the
            calibration data.
        accumulated_sqnr_db: of this layer's output when everything before it is quantized as
            well, on a held-out batch.
        bytes: of codes, scales and zero points.
    """

    name: str
    op: str
    bits: int
    group_size: int
    weight_error: float
    output_sqnr_db: float | None
    accumulated_sqnr_db: float | None
    bytes: int


class LayerRecord:
    """Remembers the float layers, to be compared when they are quantized.

    Made on the program after folding and before quantization: folding rescales what flows
    between layers, so that values can only be compared behind it.
    """

    def __init__(self, program: Program, batch: Batch) -> None:
        self._batch = batch
        self._outputs = _layer_outputs(program, batch)
        self._linears = {linear.weight_name: linear for linear in find_linears(program.graph)}
        self._signal = {
            name: _energy(program, linear, program.weight(name))
            for name, linear in self._linears.items()
        }
        decided = program.quantization.decide(program).granularity
        self._weights = {name: program.weight(name) for name in decided}

    def layers(self, program: Program) -> list[Layer]:
        """One entry for each quantized weight, in graph order."""
        outputs = _layer_outputs(program, self._batch)
        made = []
        for name, quantized in program.quantized.items():
            linear, weight = self._linears.get(name), self._weights.pop(name)
            error = quantized.dequantize().float() - weight.float()
            noise = None if linear is None else _energy(program, linear, error)
            accumulated = None
            if linear is not None:
                key = linear.node.name
                accumulated = _sqnr(self._outputs[key], outputs[key])
            made.append(
                Layer(
                    name=name,
                    op="embedding" if linear is None else linear.op,
                    bits=quantized.granularity.bits,
                    group_size=quantized.granularity.group_size,
                    weight_error=_ratio(float(error.norm()), float(weight.float().norm())),
                    output_sqnr_db=_decibel(self._signal.get(name), noise),
                    accumulated_sqnr_db=accumulated,
                    bytes=quantized.nbytes,
                )
            )
        return made


def _energy(program: Program, linear: Linear, weight: Tensor) -> float | None:
    """``|W X^T|^2 / tokens`` on the calibration statistics, if there are any.

    Statistics were taken before scales went in; the search's scales are undone.
    """
    statistics = program.statistics.get(linear.node.name)
    if statistics is None:
        return None
    matrix = linear.matrix(weight.float())
    for site in program.sites:
        found = program.scales.get(site.name)
        for reader in site.readers if site.status in ("folded", "runtime") else ():
            if reader.node == linear.node.name and found is not None:
                padded = torch.cat([found.scale, torch.ones(1)])
                matrix = matrix / padded[reader.classes[linear.column_channels()]].unsqueeze(1)
    return float((matrix @ statistics.factor.transpose(1, 2)).square().sum())


def _layer_outputs(program: Program, batch: Batch) -> dict[str, Tensor]:
    """A sample of the output of each product, by node name."""
    recorder = _Recorder(program)
    with torch.no_grad():
        recorder.run(*(batch[spec.name] for spec in program.inputs))
    return recorder.kept


class _Recorder(Interpreter):
    """Runs the graph and keeps an evenly spaced sample of what each product gives."""

    def __init__(self, program: Program) -> None:
        super().__init__(program.graph_module)
        self.kept: dict[str, Tensor] = {}

    def run_node(self, n: Node) -> Any:
        """As in torch.fx."""
        value = super().run_node(n)
        if n.op == "call_function" and (
            n.target is torch.ops.aten.linear.default or n.target in CONVOLUTIONS
        ):
            flat = value.detach().reshape(-1)
            step = max(1, flat.numel() // MAX_KEPT)
            self.kept[n.name] = flat[::step].float().clone()
        return value


def _sqnr(reference: Tensor, now: Tensor) -> float | None:
    noise = float((now - reference).square().sum())
    return _decibel(float(reference.square().sum()), noise)


def _decibel(signal: float | None, noise: float | None) -> float | None:
    if signal is None or noise is None or signal <= 0 or noise <= 0:
        return None
    return 10 * math.log10(signal / noise)


def _ratio(error: float, size: float) -> float:
    return error / size if size > 0 else 0.0
