"""When a model cannot be captured as a whole: compile those of its submodules that can.

    model(x) ── stem ── if x.sum() > 0: … ── blocks.0 ── blocks.1 ── head
                 └ compiled               └ torch     └ compiled …

Each block is captured, calibrated with the activations that reach it when the float model
runs, quantized, exported and verified as a model of its own. What lies between stays torch.
"""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from awqc.artifacts.publish import staging
from awqc.artifacts.target import prepare_folder
from awqc.capture.calls import Call, CompiledBlock, record_calls, run_call, varying_axes
from awqc.capture.module import ExampleInputs, capture_module, split_example, unwrap
from awqc.compiler import Compiled, compile
from awqc.errors import AwqcError, CaptureError, UsageError
from awqc.machine.process import undisturbed
from awqc.numerics.decibel import decibel
from awqc.options import Options, parse_options

MOST_CALLS = 64
"""Calls of a block that are kept for its calibration."""


@dataclass
class PartialCompiled:
    """A model of which only some blocks could be compiled.

    Attributes:
        module: the model with the compiled blocks in place; it is called as the original was.
        blocks: what was compiled, by the submodule's path.
        refused: submodules with weights that stay in float, with the reason.
        why: why the whole could not be captured.
        sqnr_db: of each output on the example, against the original.
    """

    module: nn.Module
    blocks: dict[str, Compiled]
    refused: dict[str, str]
    why: str
    sqnr_db: list[float | None] = field(default_factory=list)
    _used: tuple[Path, ...] = field(default=(), repr=False)

    @property
    def report(self) -> dict[str, Any]:
        """The content of report.json."""
        return {
            "partial": True,
            "why": self.why,
            "blocks": {path: f"blocks/{path}" for path in self.blocks},
            "refused": self.refused,
            "output_sqnr_db": self.sqnr_db,
        }

    def save(self, output_dir: str | Path) -> Path:
        """Write model.pt, which needs the model's own code, and a folder for each block."""
        target = Path(output_dir)
        with staging(target, self._used) as folder:
            report = self.report
            try:
                torch.save(self.module, folder / "model.pt")
            except (AttributeError, TypeError, pickle.PicklingError) as error:
                (folder / "model.pt").unlink(missing_ok=True)
                report["model.pt"] = f"not written: the model cannot be pickled ({error})"
            for path, compiled in self.blocks.items():
                shutil.copytree(compiled.folder, folder / "blocks" / path)
            (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n")
        return target


@undisturbed()
def compile_partial(
    model: nn.Module,
    example_inputs: ExampleInputs,
    calib: Iterable[Any] = (),
    *,
    output_dir: str | Path | None = None,
    **options: Any,
) -> PartialCompiled:
    """Compile the largest submodules of ``model`` that can be captured.

    Args:
        model: a module that `awqc.compile` could not capture; it is not changed.
        example_inputs: a tuple of positional or a dict of keyword inputs.
        calib: batches in the form of ``example_inputs``; the example is always among them.
        output_dir: where to write; None: nowhere, see `PartialCompiled.save`.
        **options: as for `awqc.compile`; ``dynamic`` follows from the calls that are seen.

    Raises:
        UsageError: the whole model can be captured: there is no reason to cut it; or an
            argument is wrong.
        CaptureError: no submodule with weights can be captured either.
    """
    known = {key: value for key, value in options.items() if key in Options.__dataclass_fields__}
    used = parse_options(**known).files()
    if output_dir is not None:
        prepare_folder(Path(output_dir), used)
    whole = deepcopy(unwrap(model)).eval().requires_grad_(False)
    why = _why_not(whole, example_inputs)
    calls = [split_example(batch) for batch in chain([example_inputs], calib)]
    result = PartialCompiled(whole, {}, {}, why, _used=used)
    before = run_call(whole, calls[0])
    _descend(result, "", calls, options)
    if not result.blocks:
        reasons = "".join(f"\n  {path}: {reason}" for path, reason in result.refused.items())
        raise CaptureError(f"{why}\nNo submodule with weights can be captured either:{reasons}")
    result.sqnr_db = list(_quality(before, run_call(whole, calls[0])))
    if output_dir is not None:
        result.save(output_dir)
    return result


def _why_not(model: nn.Module, example_inputs: ExampleInputs) -> str:
    try:
        capture_module(model, example_inputs)
    except CaptureError as error:
        return str(error)
    raise UsageError(
        f"{type(model).__name__} can be captured as a whole: compile it without partial"
    )


def _descend(result: PartialCompiled, path: str, calls: list[Call], options: Any) -> None:
    """Compile the children of the module at ``path``, or what is inside them."""
    for name, child in list(result.module.get_submodule(path).named_children()):
        inside = f"{path}.{name}" if path else name
        if not any(parameter.ndim > 1 for parameter in child.parameters()):
            continue
        if isinstance(child, CompiledBlock):
            continue
        reason = _compile_block(result, inside, calls, options)
        if reason is None:
            continue
        before = len(result.blocks)
        _descend(result, inside, calls, options)
        if len(result.blocks) == before:
            result.refused[inside] = reason


def _compile_block(
    result: PartialCompiled, path: str, calls: list[Call], options: dict[str, Any]
) -> str | None:
    """Put the compiled submodule in place of ``path``; the reason if that is not possible."""
    child = result.module.get_submodule(path)
    try:
        seen = record_calls(result.module, child, calls, MOST_CALLS)
        program = capture_module(
            child, seen[0].arguments, name=path, dynamic=varying_axes(seen)
        )
        compiled = compile(program, calib=[call.arguments for call in seen], **options)
    except AwqcError as error:
        return str(error).splitlines()[0]
    block = CompiledBlock(compiled.graph_module, child, seen[0])
    _replace(result.module, path, child, block)
    try:
        for call in calls:
            run_call(result.module, call)
    except Exception as error:  # noqa: BLE001 - the model's own code may do anything with a child
        _replace(result.module, path, block, child)
        return f"the model does not run with it replaced: {type(error).__name__}: {error}"
    result.blocks[path] = compiled
    return None


def _replace(model: nn.Module, path: str, old: nn.Module, new: nn.Module) -> None:
    """Put ``new`` wherever ``old`` stands; ``path`` is one of the places."""
    assert model.get_submodule(path) is old
    for owner in list(model.modules()):
        for name, child in list(owner._modules.items()):
            if child is old and owner is not new:
                owner._modules[name] = new


def _quality(before: Any, after: Any) -> Iterator[float | None]:
    """Signal to noise of each floating output, in dB; None where there is no noise."""
    pairs = zip(pytree.tree_leaves(before), pytree.tree_leaves(after), strict=True)
    for one, two in pairs:
        if isinstance(one, Tensor) and one.is_floating_point():
            signal, noise = one.double().square().sum(), (two - one).double().square().sum()
            yield decibel(float(signal), float(noise))
