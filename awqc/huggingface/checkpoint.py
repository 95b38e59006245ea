"""A program's weights in the state dict of the Hugging Face model that it was captured from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from awqc.errors import ExportError
from awqc.graph.sites import scale_factor
from awqc.huggingface.folder import HFFolder
from awqc.huggingface.layout import EXACT, ROUNDED, find_layout
from awqc.huggingface.tasks import find_task
from awqc.huggingface.tokens import token_batch
from awqc.program import Program

PROBE = (2, 8)
"""Sequences and tokens of the batch that the model is checked on."""

TOLERANCE = {torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""Largest relative difference of the logits, by the program's dtype."""


@dataclass(frozen=True)
class Checkpoint:
    """A float model whose parameters are the program's.

    Attributes:
        model: the Hugging Face model; it computes what the program does.
        state: its state dict, quantized weights dequantized.
        folded: for each quantized weight the float one, with the scales folded into it.
    """

    model: Any
    state: dict[str, Tensor]
    folded: dict[str, Tensor]

    def module(self, weight: str) -> nn.Module:
        """The module that holds ``weight``."""
        found = self.model.get_submodule(weight.rpartition(".")[0])
        assert isinstance(found, nn.Module)
        return found

    def shared(self, weight: str) -> list[str]:
        """The other names of ``weight``."""
        place = self.state[weight].data_ptr()
        return [n for n, t in self.state.items() if n != weight and t.data_ptr() == place]


def folded_checkpoint(program: Program) -> Checkpoint:
    """The model of ``program.task.origin``, loaded anew, with the program's weights in it.

    Parameters keep their names, shapes and form; the model is run once and must give the
    program's logits.

    Raises:
        ExportError: a changed tensor has no place in the original model, or the logits differ.
    """
    folder = HFFolder.of(program)
    config = folder.config()
    task = find_task(config, None, where=program.name, default="text-generation")
    model, _ = folder.model(task.load_class())
    state, folded = model.state_dict(), {}
    factors = _fold_factors(program)
    for name in {**factors, **program.findings.quantized}:
        if name not in state:
            raise ExportError(
                f"{program.name}: the tensor {name} was changed, but the original "
                f"{type(model).__name__} has no parameter for it; write onnx or pt2 instead"
            )
        quantized = program.findings.quantized.get(name)
        value = _value(program, name)
        factor = factors.get(name, torch.ones(()))
        tolerance = EXACT if quantized is None else ROUNDED
        layout = find_layout(state[name], value / factor, tolerance)
        if layout is None:
            raise ExportError(
                f"{program.name}: {name} is not stored as the original {type(model).__name__} "
                "stores it, and how it came about cannot be undone; write onnx or pt2 instead"
            )
        if quantized is not None:
            folded[name] = layout.to_original(layout.to_program(state[name]) * factor)
        state[name].copy_(layout.to_original(value))
    _check(program, model)
    return Checkpoint(model, state, folded)


def _value(program: Program, name: str) -> Tensor:
    """What the program computes with, in float32."""
    quantized = program.findings.quantized.get(name)
    if quantized is None:
        return program.weight(name).float()
    return quantized.to(torch.float32).dequantize()


def _fold_factors(program: Program) -> dict[str, Tensor]:
    """What folding multiplied each tensor by: broadcastable to it."""
    factors: dict[str, Tensor] = {}
    for site in program.findings.sites:
        if site.status == "folded":
            for name, labels in site.edits.items():
                factor = scale_factor(labels, program.findings.scales[site.name].scale)
                factors[name] = factors.get(name, torch.ones(())) * factor
    return factors


def _check(program: Program, model: Any) -> None:
    """Refuse where ``model`` does not give the program's logits."""
    generator = torch.Generator().manual_seed(0)
    vocabulary = int(model.get_input_embeddings().weight.shape[0])
    ids = torch.randint(vocabulary, PROBE, generator=generator)
    wanted = program.run(token_batch(program, ids))[0].float()
    with torch.no_grad():
        found = model(input_ids=ids, use_cache=False).logits.float()
    gap = float((found - wanted).abs().max() / wanted.abs().max().clamp(min=1e-30))
    limit = TOLERANCE.get(program.source_dtype, 1e-3)
    if math.isnan(gap) or gap > limit:
        raise ExportError(
            f"{program.name}: with the quantized weights put back, {type(model).__name__} gives "
            f"logits that differ by {gap:.1e} of their size (allowed: {limit:.0e}); "
            "write onnx or pt2 instead"
        )
