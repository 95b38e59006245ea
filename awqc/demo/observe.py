"""What the passes of one compile see and decide, as plain numbers to be shown."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from awqc.graph.linears import find_linears
from awqc.passes.base import Change, Pass
from awqc.program import Program

EXCERPT_ROWS, EXCERPT_COLUMNS = 2, 6
TOP_CHANNELS = 4


@dataclass
class Excerpts:
    """Gathers, as a compile goes on, what it would otherwise throw away.

    Attributes:
        weights: the original weights, each with an excerpt.
        activations: what each layer reads: magnitudes by channel.
        quantized: codes and the values that they stand for, with an excerpt.
    """

    weights: list[dict[str, Any]] = field(default_factory=list)
    activations: list[dict[str, Any]] = field(default_factory=list)
    quantized: list[dict[str, Any]] = field(default_factory=list)
    _original: dict[str, Tensor] = field(default_factory=dict)

    def __call__(self, step: Pass, before: Program, after: Program, changes: list[Change]) -> None:
        """To be given to `awqc.compile` as ``observe``."""
        if step.name == "canonicalize":
            names = [linear.weight_name for linear in find_linears(after.graph)]
            self._original = {name: after.weight(name).clone() for name in names}
            self.weights = [_weight(name, value) for name, value in self._original.items()]
        elif step.name == "calibrate":
            statistics = after.findings.statistics
            self.activations = [
                _activation(linear.weight_name, statistics[linear.node.name].abs_mean[0])
                for linear in find_linears(after.graph)
            ]
        elif step.name == "quantize-weights":
            self.quantized = [self._codes(name, before, after) for name in after.findings.quantized]

    def _codes(self, name: str, before: Program, after: Program) -> dict[str, Any]:
        """The codes of ``name``; restored values have the folded scales undone."""
        weight = after.findings.quantized[name]
        scale = weight.tensors["scale"]
        original, scaled = self._original[name], before.weight(name)
        undo = torch.where(scaled == 0, torch.ones_like(scaled), original / scaled)
        restored = weight.dequantize() * undo
        return {
            "name": name,
            **weight.format.describe(),
            "codes": _excerpt(weight.codes),
            "restored": _excerpt(restored),
            "smallest_scale": float(scale.min()),
            "largest_scale": float(scale.max()),
            "scales": scale.numel(),
        }


def _weight(name: str, value: Tensor) -> dict[str, Any]:
    return {
        "name": name,
        "shape": list(value.shape),
        "std": float(value.std()) if value.numel() > 1 else 0.0,
        "min": float(value.min()),
        "max": float(value.max()),
        "excerpt": _excerpt(value),
    }


def _activation(name: str, magnitude: Tensor) -> dict[str, Any]:
    """``magnitude`` is mean|x| by input channel: ``(channels,)``."""
    ranked = magnitude.sort(descending=True)
    tenth = max(1, magnitude.numel() // 10)
    total = float(magnitude.sum())
    return {
        "name": name,
        "channels": magnitude.numel(),
        "mean": float(magnitude.mean()),
        "silent": int((magnitude == 0).sum()),
        "top": [
            {"channel": int(channel), "mean": float(value)}
            for value, channel in zip(*(part[:TOP_CHANNELS] for part in ranked), strict=True)
        ],
        "top_tenth_share": float(ranked.values[:tenth].sum()) / total if total else 0.0,
    }


def _excerpt(matrix: Tensor) -> list[list[float]]:
    """The upper left corner."""
    corner = matrix[:EXCERPT_ROWS, :EXCERPT_COLUMNS].tolist()
    return [list(row) for row in corner]
