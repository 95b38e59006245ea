"""When a model cannot be captured as a whole: compile those of its submodules that can.

    model(x) ── stem ── if x.sum() > 0: … ── blocks.0 ── blocks.1 ── head
                 └ compiled               └ torch     └ compiled …

Each block is captured, calibrated with the activations that reach it when the float model
runs, quantized, exported and verified as a model of its own. What lies between stays torch.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from awqc.artifacts.copying import copy_tree
from awqc.artifacts.publish import staging
from awqc.artifacts.target import prepare_folder
from awqc.capture.compiled_block import CompiledBlock
from awqc.capture.module import ExampleInputs, capture_module, split_example
from awqc.capture.regions import check_no_branches
from awqc.capture.taken_over import unwrap
from awqc.compiler import Compiled, compile_graph
from awqc.data.calibration import CalibrationData
from awqc.data.load import Calib, DataSource
from awqc.errors import (
    AwqcError,
    CaptureError,
    UnsupportedGraphError,
    UsageError,
    spelled,
    worded,
)
from awqc.machine.given_paths import given_path
from awqc.machine.process import undisturbed
from awqc.numerics.name_patterns import check_fits
from awqc.options import Options, parse_options
from awqc.options.declare import declarations, takes
from awqc.passes.part_patterns import patterns_within
from awqc.recording.calls import Call, record_calls, run_call
from awqc.recording.varying import varying_axes
from awqc.sources.opening import open_module
from awqc.stages.asked import prepare, used_files
from awqc.verify.gaps import Gaps
from awqc.verify.limits import check_loss

_WHOLE = ("seq_len", "dynamic", "work_dir", "fresh", "layout", "gguf", "part",
          "image_size")  # fmt: skip
"""Options that only a model which is captured whole has."""

_OPENING = {name for name, one in declarations(Options).items() if one.group == "model"}
MOST_CALLS = 64
"""Calls of a block that are kept for its calibration."""
MEASURED = 4
"""Calls of the whole model, the example first, on which it is compared with the original."""


@dataclass
class PartialCompiled:
    """A model of which only some blocks could be compiled.

    Attributes:
        module: the model with the compiled blocks in place; it is called as the original was.
        blocks: what was compiled, by the submodule's path.
        refused: submodules with weights that stay in float, with the reason.
        why: why the whole could not be captured.
        sqnr_db: of each output, against the original.
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
        target = given_path(output_dir, "output_dir")
        with staging(target, self._used) as folder:
            report = self.report
            try:
                torch.save(self.module, folder / "model.pt")
            except (AttributeError, TypeError, pickle.PicklingError) as error:
                (folder / "model.pt").unlink(missing_ok=True)
                report["model.pt"] = f"not written: the model cannot be pickled ({error})"
            for path, compiled in self.blocks.items():
                copy_tree(compiled.folder, folder / "blocks" / path)
            (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n")
        return target


@takes(Options, *_WHOLE)
@undisturbed()
def compile_partial(
    model: nn.Module | str | Path,
    example_inputs: ExampleInputs | None = None,
    calib: Calib | None = None,
    *,
    output_dir: str | Path | None = None,
    **options: Any,
) -> PartialCompiled:
    """Compile the largest submodules of ``model`` that can be captured.

    Args:
        model: a module that `awqc.compile` could not capture (it is not changed), the path of a
            pickled one or of a Hugging Face folder, or ``"package.module:factory"``.
        example_inputs: a tuple of positional or a dict of keyword inputs; None: as for
            `awqc.compile`.
        calib: batches in the form of ``example_inputs``, or arrays by input name, also from a
            file; the example is always among them.
        output_dir: where to write; None: nowhere, see `PartialCompiled.save`.

    Raises:
        UsageError: an argument is wrong; or the whole model can be captured: there is no reason
            to cut it.
        CaptureError: no submodule with weights can be captured either.
        VerificationError: an output of the whole has lost more than ``max_loss``.
    """
    chosen = parse_options(**options)
    for name in _WHOLE:
        if name in options and getattr(chosen, name) != getattr(Options(), name):
            raise UsageError(
                f"{spelled(name)} is for models that are captured whole; leave it out, or compile "
                f"without {spelled('partial', True, python='compile_partial')}"
            )
    pipeline, _ = prepare(chosen)
    used = used_files(model, calib, pipeline, chosen)
    if output_dir is not None:
        prepare_folder(given_path(output_dir, "output_dir"), used)
    data = DataSource.of(calib)
    source = open_module(
        model,
        example_inputs,
        inputs=chosen.inputs,
        arrays=data.arrays,
        trust_pickle=chosen.trust_pickle,
        seed=chosen.seed,
        task=chosen.task,
        trust_remote_code=chosen.trust_remote_code,
        weights=chosen.weights,
        adapter=chosen.adapter,
    )
    whole = deepcopy(unwrap(source.module)).eval().requires_grad_(False)
    names = dict(whole.named_parameters(remove_duplicate=False))
    check_fits(chosen.exclude, names, type(whole).__name__)
    why = _why_not(whole, source.example)
    batches = chain([source.example], _batches(data, source.example))
    calls = [split_example(batch) for batch in batches]
    options = {name: value for name, value in options.items() if name not in _OPENING | {*_WHOLE}}
    options["exclude"] = chosen.exclude
    result = PartialCompiled(whole, {}, {}, worded(why), _used=used)
    before = [run_call(whole, call) for call in calls[:MEASURED]]
    _descend(result, "", calls, options)
    if not result.blocks:
        reasons = "".join(f"\n  {path}: {reason}" for path, reason in result.refused.items())
        raise CaptureError(f"{why}\nNo submodule with weights can be captured either:{reasons}")
    result.sqnr_db = _quality(
        before, [run_call(whole, call) for call in calls[:MEASURED]], chosen.max_loss
    )
    if output_dir is not None:
        result.save(output_dir)
    return result


def _batches(data: DataSource, example: ExampleInputs) -> Iterable[Any]:
    """Batches as given; samples of whole arrays, as many at a time as the example has."""
    if data.given is None:
        return []
    if data.text is not None or data.media is not None or isinstance(data.given, CalibrationData):
        raise UsageError(
            f"{spelled('calib')}: submodules are calibrated on what reaches them when the model "
            "runs on arrays; give a file of arrays, or batches"
        )
    if data.arrays is None:
        if isinstance(data.given, str | Path | Mapping):
            raise UsageError(f"{spelled('calib')}: give whole arrays by input name, not nested")
        return data.given
    given = split_example(example)[1]
    if set(data.arrays) != set(given):
        where = data.given if isinstance(data.given, str | Path) else spelled("calib")
        raise UsageError(
            f"{where}: holds arrays {sorted(data.arrays)}; one for each input by name is needed: "
            f"{sorted(given) or 'name the inputs with ' + spelled('inputs')}"
        )
    first = next(name for name, value in given.items() if isinstance(value, Tensor))
    size, count = given[first].shape[0], len(data.arrays[first])
    return [
        {name: array[start : start + size] for name, array in data.arrays.items()}
        for start in range(0, count - size + 1, size)
    ]


def _why_not(model: nn.Module, example_inputs: ExampleInputs) -> str:
    try:
        check_no_branches(capture_module(model, example_inputs))
    except (CaptureError, UnsupportedGraphError) as error:
        return error.text
    raise UsageError(
        f"{type(model).__name__} can be captured as a whole: compile it without "
        f"{spelled('partial', True, python='compile_partial')}"
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
        program = capture_module(child, seen[0].arguments, name=path, dynamic=varying_axes(seen))
        exclude = patterns_within(options.get("exclude", ()), program, path)
        compiled = compile_graph(
            program, calib=[call.arguments for call in seen], **{**options, "exclude": exclude}
        )
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


def _quality(before: Sequence[Any], after: Sequence[Any], max_loss: float) -> list[float | None]:
    """Signal to noise of each output, in dB; None where there is no noise.

    Raises:
        VerificationError: an output has lost more than ``max_loss``.
    """
    gaps = Gaps()
    for wanted, found in zip(before, after, strict=True):
        pairs = zip(pytree.tree_leaves(wanted), pytree.tree_leaves(found), strict=True)
        for index, (one, two) in enumerate(pairs):
            if isinstance(one, Tensor):
                gaps.add(str(index), two, one)
    check_loss(gaps.loss()["outputs"], max_loss, "the model with its compiled blocks")
    return [gap.sqnr_db for gap in gaps.outputs.values()]
