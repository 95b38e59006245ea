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
from awqc.huggingface.layout import EXACT, ROUNDED, ByRows, Layout, find_layout
from awqc.huggingface.tasks import find_task
from awqc.huggingface.tokens import token_batch
from awqc.program import Program

PROBE = (2, 8)
"""Sequences and tokens of the batch that the model is checked on."""
PLAIN = Layout()

TOLERANCE = {torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""Largest relative difference of the logits, by the program's dtype."""


@dataclass(frozen=True)
class Checkpoint:
    """A Hugging Face model, and the program's weights in its form, each made when asked for.

    Attributes:
        program: what the weights are of.
        model: the original; its parameters are its own.
        state: its state dict.
        factors: for each changed tensor what folding multiplied it by, broadcastable to it.
        layouts: how each changed tensor lies in the original.
    """

    program: Program
    model: Any
    state: dict[str, Tensor]
    factors: dict[str, Tensor]
    layouts: dict[str, Layout]

    def module(self, weight: str) -> nn.Module:
        """The module that holds ``weight``."""
        found = self.model.get_submodule(weight.rpartition(".")[0])
        assert isinstance(found, nn.Module)
        return found

    def shared(self, weight: str) -> list[str]:
        """The other names of ``weight``."""
        place = self.state[weight].data_ptr()
        return [n for n, t in self.state.items() if n != weight and t.data_ptr() == place]

    def tensor(self, name: str, dtype: torch.dtype, quantized: bool = True) -> Tensor:
        """What the program has for the original's tensor ``name``: its own, if it is unchanged.

        Where not ``quantized``, a quantized weight is the float one with the scales folded into
        it. No second copy in another dtype is made on the way.
        """
        original = self.state[name]
        if name not in self.layouts:
            return original.to(dtype)
        layout = self.layouts[name]
        if quantized or name not in self.program.findings.quantized:
            value = _values(self.program, name)
        else:
            turned = original.t() if layout.transposed else original
            value = _scaled(ByRows.of(turned), self.factors.get(name), layout)
        return layout.fill(torch.empty(original.shape, dtype=dtype), value)


def folded_checkpoint(program: Program) -> Checkpoint:
    """The model of ``program.task.origin``, loaded anew, beside the program's weights.

    Parameters keep their names, shapes and form; the model is run once with these weights and
    must give the program's logits.

    Raises:
        ExportError: a changed tensor has no place in the original model, or the logits differ.
    """
    folder = HFFolder.of(program)
    config = folder.config()
    task = find_task(config, None, where=program.name, default="text-generation")
    model, _ = folder.model(task.load_class())
    state, factors = model.state_dict(), _fold_factors(program)
    layouts: dict[str, Layout] = {}
    for name in {**factors, **program.findings.quantized}:
        if name not in state:
            raise ExportError(
                f"{program.name}: the tensor {name} was changed, but the original "
                f"{type(model).__name__} has no parameter for it; write onnx or pt2 instead"
            )
        value = _scaled(_values(program, name), _inverse(factors.get(name)))
        tolerance = ROUNDED if name in program.findings.quantized else EXACT
        layout = find_layout(state[name], value, tolerance)
        if layout is None:
            raise ExportError(
                f"{program.name}: {name} is not stored as the original {type(model).__name__} "
                "stores it, and how it came about cannot be undone; write onnx or pt2 instead"
            )
        layouts[name] = layout
    checkpoint = Checkpoint(program, model, state, factors, layouts)
    _check(checkpoint)
    return checkpoint


def _values(program: Program, name: str) -> ByRows:
    """What the program computes with."""
    quantized = program.findings.quantized.get(name)
    if quantized is None:
        return ByRows.of(program.weight(name))
    weight = quantized.to(torch.float32)
    inner = weight.rows // max(weight.shape[0], 1)  # rows of the matrix a row of the tensor

    def rows(start: int, stop: int) -> Tensor:
        return weight.some(start * inner, stop * inner).reshape(-1, *weight.shape[1:])

    return ByRows(tuple(weight.shape), rows)


def _scaled(value: ByRows, factor: Tensor | None, layout: Layout = PLAIN) -> ByRows:
    """``value``, as ``layout`` has it in a program, times ``factor``, which is broadcast."""

    def rows(start: int, stop: int) -> Tensor:
        made = value.rows(start, stop) * layout.factor + layout.shift
        if factor is None:
            return made
        along = factor.ndim == len(value.shape) and factor.ndim > 0 and factor.shape[0] > 1
        return made * (factor[start:stop] if along else factor)

    return ByRows(value.shape, rows)


def _inverse(factor: Tensor | None) -> Tensor | None:
    return None if factor is None else 1 / factor


def _fold_factors(program: Program) -> dict[str, Tensor]:
    """What folding multiplied each tensor by: broadcastable to it."""
    factors: dict[str, Tensor] = {}
    for site in program.findings.sites:
        if site.status == "folded":
            for name, labels in site.edits.items():
                factor = scale_factor(labels, program.findings.scales[site.name].scale)
                factors[name] = factors.get(name, torch.ones(())) * factor
    return factors


def _check(checkpoint: Checkpoint) -> None:
    """Refuse where the model does not give the program's logits with the program's weights."""
    program, model = checkpoint.program, checkpoint.model
    generator = torch.Generator().manual_seed(0)
    vocabulary = int(model.get_input_embeddings().weight.shape[0])
    ids = torch.randint(vocabulary, PROBE, generator=generator)
    wanted = program.run(token_batch(program, ids))[0].float()
    with torch.no_grad():
        found = _logits(checkpoint, ids)
    gap = float((found - wanted).abs().max() / wanted.abs().max().clamp(min=1e-30))
    limit = TOLERANCE.get(program.source_dtype, 1e-3)
    if math.isnan(gap) or gap > limit:
        raise ExportError(
            f"{program.name}: with the quantized weights put back, {type(model).__name__} gives "
            f"logits that differ by {gap:.1e} of their size (allowed: {limit:.0e}); "
            "write onnx or pt2 instead"
        )


def _logits(checkpoint: Checkpoint, ids: Tensor) -> Tensor:
    """What the model gives with the program's weights, which are made while a module reads them.

    Where a weight is read by another module than the one that holds it, it is held throughout.
    """
    model, names = checkpoint.model, _names(checkpoint)
    asleep = {module for module in model.modules() if _parameters(module)}
    own: dict[nn.Parameter, Tensor] = {}
    lasting: set[nn.Parameter] = set()

    def lend(module: nn.Module, *_: Any) -> None:
        asleep.discard(module)
        for parameter in _parameters(module):
            if parameter not in own:
                own[parameter] = parameter.data
                parameter.data = checkpoint.tensor(names[parameter], torch.float32)

    def take_back(module: nn.Module, *_: Any) -> None:
        for parameter in set(_parameters(module)) - lasting:
            parameter.data = own.pop(parameter)

    hooks = [module.register_forward_pre_hook(lend) for module in asleep]
    hooks += [module.register_forward_hook(take_back) for module in asleep]
    found: Tensor = model(input_ids=ids, use_cache=False).logits.float()
    if asleep:
        lasting |= {parameter for module in asleep for parameter in _parameters(module)}
        for module in list(asleep):
            lend(module)
        found = model(input_ids=ids, use_cache=False).logits.float()
    for parameter, data in own.items():
        parameter.data = data
    for hook in hooks:
        hook.remove()
    return found


def _parameters(module: nn.Module) -> list[nn.Parameter]:
    """Those that the module holds itself."""
    return [parameter for parameter in module._parameters.values() if parameter is not None]


def _names(checkpoint: Checkpoint) -> dict[nn.Parameter, str]:
    """Names of the parameters; one that has several goes by the one that the program knows."""
    found: dict[nn.Parameter, str] = {}
    for name, parameter in checkpoint.model.named_parameters(remove_duplicate=False):
        if parameter not in found or name in checkpoint.layouts:
            found[parameter] = name
    return found
