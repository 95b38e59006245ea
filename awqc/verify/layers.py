"""What quantization did to each layer: its weight, its output, and what piled up before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Interpreter, Node

from awqc.graph.families import CONVOLUTIONS
from awqc.graph.linears import Linear, find_linears
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


class LayerRecord:
    """Remembers what float layers give, to be compared when they are quantized.

    Taken of the program after folding and before quantization: folding rescales what flows
    between layers, so that values can only be compared behind it.
    """

    def __init__(self) -> None:
        self._outputs: dict[str, Tensor] = {}
        self._linears: dict[str, Linear] = {}

    def take(self, program: Program, batch: Batch) -> None:
        """Remember what the layers of ``program``, or of a part of it, give for ``batch``."""
        self._outputs |= _layer_outputs(program, batch)
        for linear in find_linears(program.graph):
            self._linears[linear.weight_name] = linear

    def layers(self, program: Program, batch: Batch) -> list[Layer]:
        """One entry for each quantized weight; ``batch`` is what the float layers were given."""
        outputs = _layer_outputs(program, batch) if self._outputs else {}
        return [self._layer(program, name, outputs) for name in program.findings.quantized]

    def _layer(self, program: Program, name: str, outputs: dict[str, Tensor]) -> Layer:
        quantized, linear = program.findings.quantized[name], self._linears.get(name)
        accumulated = None
        if linear is not None:
            reference, now = (kept[linear.node.name] for kept in (self._outputs, outputs))
            # Rounding can move rows to another expert: then the two cannot be compared.
            if now.shape == reference.shape:
                noise = float((now - reference).square().sum())
                accumulated = decibel(float(reference.square().sum()), noise)
        return Layer(
            name=name,
            op="embedding" if linear is None else linear.op,
            **quantized.format.describe(),
            weight_error=program.findings.errors[name].weight,
            output_sqnr_db=program.findings.errors[name].output_sqnr_db,
            accumulated_sqnr_db=accumulated,
            bytes=quantized.nbytes,
        )


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
