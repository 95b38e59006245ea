"""What tuning changes: relative changes of all that the formats of the weights let tune."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from awqc.machine.devices import CPU, moved
from awqc.program import Program
from awqc.weights.stored import stored_weight
from awqc.weights.tuning.dequantize import TunedWeight
from awqc.weights.tuning.graph import quantized_calls

LARGEST_CHANGE = 2.0


class TunedScales:
    """The quantized weights of ``program`` with scales that follow a gradient.

    Weights in fine codes, and those that other programs share, stay as they are. What changes
    lies on ``device``, and codes come there as they are asked for.
    """

    def __init__(self, program: Program, device: torch.device = CPU) -> None:
        self._device = device
        self._dtype = program.scale_dtype
        self._weights = dict(program.findings.quantized)
        self._changes = {
            name: {
                role: torch.zeros_like(
                    weight.tensors[role],
                    dtype=torch.float32,
                    device=device,
                    requires_grad=True,
                )
                for role in weight.format.tunable
            }
            for name, weight in self._weights.items()
            if not weight.format.fine and name not in program.shared
        }

    @property
    def names(self) -> list[str]:
        """Of the weights that are tuned."""
        return list(self._changes)

    def parameters(self) -> list[Tensor]:
        """The changes, which start at zero."""
        return [each for roles in self._changes.values() for each in roles.values()]

    def shape(self, name: str) -> tuple[int, ...]:
        """Of the weight ``name``, tuned or not."""
        return self._weights[name].shape

    def weight(self, name: str, stored: bool) -> TunedWeight:
        """The weight ``name`` as it is now; ``stored``: with tensors as they would be stored."""
        weight = self._weights[name]
        held = moved(dict(weight.tensors), self._device)
        return TunedWeight(replace(weight, tensors=held), self._tuned(name, stored))

    def _tuned(self, name: str, stored: bool) -> dict[str, Tensor]:
        weight, found = self._weights[name], {}
        for role, change in self._changes.get(name, {}).items():
            value = moved(weight.tensors[role], self._device).float()
            value = value * (1 + change).clamp(1 / LARGEST_CHANGE, LARGEST_CHANGE)
            found[role] = weight.format.stored(value, self._dtype) if stored else value
        return found

    @torch.no_grad()
    def store(self, program: Program) -> None:
        """Put the tuned scales into ``program``."""
        calls = quantized_calls(program)
        quantized = dict(program.findings.quantized)
        for name in self._changes:
            weight, names = self._weights[name], stored_weight(calls[name]).tensors
            tuned = {
                role: moved(value, CPU).to(weight.tensors[role].dtype)
                for role, value in self._tuned(name, stored=True).items()
            }
            quantized[name] = weight.with_tensors(tuned)
            for role, value in tuned.items():
                program.set_weight(names[role], value)
        program.learn(quantized=quantized)
