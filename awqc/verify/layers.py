"""What quantization did to each layer: its weight, its output, and what piled up before it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Interpreter, Node

from awqc.findings import FloatLayer
from awqc.graph.families import CONVOLUTIONS
from awqc.graph.linears import find_linears
from awqc.numerics.decibel import decibel
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
        format: ``int``, or the name of the weight's format.
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
    format: str
    weight_error: float
    output_sqnr_db: float | None
    accumulated_sqnr_db: float | None
    bytes: int


def float_layers(program: Program, batch: Batch) -> dict[str, FloatLayer]:
    """What the layers of ``program``, or of a part of it, give for ``batch``, by weight.

    Taken after folding and before quantization: folding rescales what flows between layers, so
    that values can only be compared behind it.
    """
    outputs = _layer_outputs(program, batch)
    return {
        linear.weight_name: FloatLayer(linear.op, linear.node.name, outputs[linear.node.name])
        for linear in find_linears(program.graph)
    }


def compare_layers(program: Program, batch: Batch) -> list[Layer]:
    """One entry for each quantized weight; ``batch`` is what the float layers were given."""
    outputs = _layer_outputs(program, batch) if program.findings.float_layers else {}
    return [_layer(program, name, outputs) for name in program.findings.quantized]


def _layer(program: Program, name: str, outputs: Mapping[str, Tensor]) -> Layer:
    found = program.findings
    quantized, before = found.quantized[name], found.float_layers.get(name)
    accumulated = None
    if before is not None:
        reference, now = before.sample, outputs[before.node]
        # Rounding can move rows to another expert: then the two cannot be compared.
        if now.shape == reference.shape:
            noise = float((now - reference).square().sum())
            accumulated = decibel(float(reference.square().sum()), noise)
    return Layer(
        name=name,
        op="embedding" if before is None else before.op,
        **quantized.format.describe(),
        weight_error=found.errors[name].weight,
        output_sqnr_db=found.errors[name].output_sqnr_db,
        accumulated_sqnr_db=accumulated,
        bytes=quantized.nbytes,
    )


def _layer_outputs(program: Program, batch: Batch) -> dict[str, Tensor]:
    """A sample of the output of each product, by node name."""
    recorder, given = _Recorder(program), program.placed(batch)
    with torch.no_grad():
        recorder.run(*(given[spec.name] for spec in program.inputs))
    return dict(zip(recorder.kept, program.brought_back(list(recorder.kept.values())), strict=True))


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
