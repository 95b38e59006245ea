"""Write a `Program` as ONNX: portable operations, low-bit weights, in the form that fuses.

The float operations are translated by torch.onnx from a graph in which a quantized weight
is an input without data; then the packed codes are put in its place. Why, and what else
was tried: ``docs/decisions/0001-onnx-export.md``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import onnx_ir.passes.common as passes
import torch
from torch.export import ExportedProgram

from awqc.errors import ExportError, UsageError
from awqc.export.exported import Lowered, lower
from awqc.export.onnx_codes import MIN_OPSET, oldest_opset
from awqc.export.onnx_tidy import (
    axis_names,
    keep_padding,
    name_nodes,
    rename_axes,
    simplify,
    strip_metadata,
)
from awqc.export.onnx_translator import translate
from awqc.export.onnx_weights import WeightPlacer
from awqc.export.scans import write_scans
from awqc.export.whole_numbers import why_not_onnx
from awqc.graph.nodes import results_of
from awqc.graph.rewriting import TracingError
from awqc.machine.strict import fall_back
from awqc.program import Program
from awqc.weights.unscaled import cell_weights, quantized_names

MAX_INLINE_BYTES = 2**27
"""Weights beyond this go to a file of their own, which is written a tensor at a time and mapped
where it is opened: a protobuf lies in memory as a whole, twice while it is written, and ends at
2 GiB."""


@dataclass(frozen=True)
class ExportedOnnx:
    """What `export_onnx` wrote.

    Attributes:
        path: the model.
        data: the file beside it that holds the weights, or None if they are in the model.
        inputs: names of the inputs, in order; ``outputs`` likewise.
        opset: version of the operators.
        quantized: names of the quantized weights.
    """

    path: Path
    data: Path | None
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    opset: int
    quantized: tuple[str, ...]

    @property
    def nbytes(self) -> int:
        """Size on disk."""
        files = [self.path] if self.data is None else [self.path, self.data]
        return sum(file.stat().st_size for file in files)


def export_onnx(
    program: Program,
    path: Path,
    *,
    opset: int | None = None,
    metadata: Mapping[str, str] | None = None,
    external_data: bool | None = None,
) -> ExportedOnnx:
    """Write ``program`` to ``path``.

    Args:
        program: float, or with weights in a format that ONNX has a form for.
        path: the file; weights in external data lie beside it, in ``<path>.data``.
        opset: 21 or newer; None is 21, or 25 where a weight has 2 bits.
        metadata: pairs for the model's metadata_props.
        external_data: weights in a file of their own; None: only where they must be.

    Raises:
        ExportError: an operation or a weight has no ONNX form, or the file is not valid.
        UsageError: the opset is too old.
    """
    _check_real(program)
    lowered = lower(program)
    _check_weights(program, lowered)
    opset = _resolve_opset(opset, lowered)
    model = _translate(program, lowered, opset)
    write_scans(model)
    try:
        simplify(model)
    except Exception as error:
        raise ExportError(
            f"{program.name}: the ONNX model could not be simplified: {_root_cause(error)} "
            f"({error}). Please report it; write pt2 meanwhile"
        ) from error
    keep_padding(model)
    name_nodes(model)
    strip_metadata(model)
    rename_axes(model, axis_names(program))
    _place_weights(model, program, lowered, opset)
    passes.NameFixPass()(model)
    model.ir_version = onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", opset)])
    model.producer_name, model.producer_version = "awqc", version("awqc")
    model.graph.name = program.name
    model.metadata_props.update(metadata or {})
    data = _save(model, path, external_data)
    _check(path)
    return ExportedOnnx(
        path=path,
        data=data,
        inputs=tuple(str(value.name) for value in model.graph.inputs),
        outputs=tuple(str(value.name) for value in model.graph.outputs),
        opset=opset,
        quantized=tuple(weight.name for weight in lowered.weights),
    )


def _check_real(program: Program) -> None:
    """Refuse complex inputs and outputs, which runtimes do not take."""
    ends = {f"input {spec.name!r}": spec.dtype for spec in program.inputs}
    for name, node in zip(program.outputs, results_of(program.graph), strict=True):
        ends[f"output {name!r}"] = node.meta["val"].dtype
    for name, dtype in ends.items():
        if dtype.is_complex:
            raise ExportError(
                f"{program.name}: {name} is {str(dtype).removeprefix('torch.')}, which no ONNX "
                "runtime takes: let forward work with torch.view_as_real of it, or write pt2 alone"
            )


def _check_weights(program: Program, lowered: Lowered) -> None:
    for weight in lowered.weights:
        if (reason := why_not_onnx(weight.format)) is not None:
            raise ExportError(
                f"{program.name}: the weight {weight.name} has no ONNX form: {reason}; write pt2"
            )


def _resolve_opset(opset: int | None, lowered: Lowered) -> int:
    if opset is None:
        return max([MIN_OPSET, *(oldest_opset(weight.format) for weight in lowered.weights)])
    if opset < MIN_OPSET:
        raise UsageError(
            f"opset {opset} has no blocked DequantizeLinear for low-bit weights; "
            f"use {MIN_OPSET} or newer"
        )
    return opset


def _translate(program: Program, lowered: Lowered, opset: int) -> Any:
    """The float model; its first inputs stand for the quantized weights."""
    weights = [f"awqc.weight.{index}" for index in range(len(lowered.weights))]
    names = [*weights, *(spec.name for spec in program.inputs)]
    try:
        translated = translate(lowered.exported, opset, names, lowered.outputs)
    except torch.onnx.OnnxExporterError as error:
        translated = _translate_whole(program, opset, names, _refusal(lowered, error))
    model = translated.model
    found = model.opset_imports.get("")
    if found != opset:
        raise ExportError(
            f"{program.name}: the model needs opset {found} and cannot be written in opset "
            f"{opset}; ask for another opset"
        )
    return model


def _refusal(lowered: Lowered, error: Exception) -> Exception:
    """Why nodes could not be expanded or translated one by one; a fault of ours is raised."""
    failure = getattr(lowered.exported, "failure", None)
    if failure is not None and not isinstance(failure, TracingError):
        raise failure
    return failure or error


def _translate_whole(
    program: Program, opset: int, names: list[str], error: Exception
) -> torch.onnx.ONNXProgram:
    """The general way, which decomposes the whole graph, slowly; ``error``: why it is taken."""
    whole = lower(program, ExportedProgram)
    try:
        translated = translate(whole.exported, opset, names, whole.outputs)
    except torch.onnx.OnnxExporterError as failure:
        raise ExportError(f"{program.name}: no ONNX form: {_root_cause(failure)}") from failure
    note = "written as ONNX by torch's own decompositions, for node by node it could not be: "
    why = str(error) if isinstance(error, TracingError) else _root_cause(error)
    fall_back(program.tell, note + why, error)
    return translated


def _place_weights(model: Any, program: Program, lowered: Lowered, opset: int) -> None:
    """Replace the inputs that stand for quantized weights by the packed weights."""
    stand_ins = list(model.graph.inputs[: len(lowered.weights)])
    seen: set[str] = set()
    steps = {name for node in cell_weights(program.graph) for name in quantized_names(node)}
    for value, weight in zip(stand_ins, lowered.weights, strict=True):
        name = weight.name if weight.name not in seen else f"{weight.name}.{value.name}"
        seen.add(name)
        placer = WeightPlacer(model.graph, name, weight.load(program), opset)
        placer.place(value, shared=weight.name in steps)
    del model.graph.inputs[: len(lowered.weights)]


def _save(model: Any, path: Path, external_data: bool | None) -> Path | None:
    size = sum(v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value)
    if external_data is None:
        external_data = size > MAX_INLINE_BYTES
    data = path.with_name(f"{path.name}.data") if external_data else None
    try:
        ir.save(model, path, external_data=None if data is None else data.name)
    except OSError as error:
        raise ExportError(f"{path}: could not be written: {error}") from error
    return data


def _check(path: Path) -> None:
    try:
        onnx.checker.check_model(str(path))
    except onnx.checker.ValidationError as error:
        raise ExportError(f"{path}: not a valid ONNX model: {error}") from error


def _root_cause(error: BaseException) -> str:
    """The first line of the innermost cause: that is what names the operation."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
