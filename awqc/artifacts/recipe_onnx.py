"""Codes of an earlier compile, read out of the ONNX that it published.

Initializers hold them in the forms that `awqc.export.onnx_weights` and `awqc.export.ort` write;
what is read is what was quantized, bit by bit, or nothing. Data files are read only where they
lie beside the model.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor

from awqc.errors import UsageError
from awqc.numerics.formats.int_grid import IntGrid
from awqc.numerics.onnx_packed import StoredCodes
from awqc.numerics.onnx_types import ROWS_OF, WIDTHS
from awqc.numerics.packing import unpack

Array = NDArray[Any]
PACKED, EXPERT = ".packed", ".expert"
STACKS = {2: (3, 11), 5: (6, 12)}
"""Operands of ``QMoE``: of codes, with those of their scales and zero points."""
EXPERT_AXES = 3


@dataclass(frozen=True)
class Codes:
    """What stands for one weight.

    Attributes:
        codes: uint8 ``(rows, columns)``, one a byte, in ``[0, quant_max]``.
        scale: ``(rows, groups)``.
        zero_point: uint8 ``(rows, groups)``, or None when symmetric.
    """

    codes: Tensor
    scale: Tensor
    zero_point: Tensor | None


@dataclass(frozen=True)
class _Stored:
    """A weight as a node reads it: names of initializers, and how they are laid out.

    ``start`` is its first row, where several weights stand under each other, and ``weight`` its
    name with what stands behind it. ``turns``, of a weight of experts, are its rows in parts: the
    first of them, the expert, and of which rows of that one they are, of so many in turns.
    """

    codes: str
    scale: str
    zero_point: str | None
    node: Any
    start: int = 0
    weight: str = ""
    turns: tuple[tuple[int, int, int, int], ...] = ()


class OnnxCodes:
    """The quantized weights of the model at ``path``.

    Raises:
        UsageError: it cannot be read, or its data lies outside of its folder.
    """

    def __init__(self, path: Path) -> None:
        try:
            model = ir.load(path)
        except Exception as error:
            raise UsageError(f"{path}: cannot be read as an ONNX model ({error})") from error
        self._path = path
        self._tensors = {
            name: value.const_value
            for name, value in model.graph.initializers.items()
            if value.const_value is not None
        }
        self._stored = {each.weight or each.codes: each for each in _weights(model.graph)}
        for tensor in self._tensors.values():
            _check_inside(tensor, path)

    def find(self, name: str, rows: int, columns: int, form: IntGrid) -> Codes | None:
        """What the model holds for the weight ``name``, or None.

        Raises:
            UsageError: what it holds cannot be read.
        """
        readers = (
            ("", _from_qdq), (PACKED, _from_product), (".table", _from_table),
            (EXPERT, _from_experts),
        )  # fmt: skip
        try:
            for suffix, read in readers:
                stored = self._stored.get(f"{name}{suffix}")
                if stored is not None and all(n in self._tensors for n in _names(stored)):
                    found = read(self._tensors, stored, rows, columns, form)
                    if found is not None:
                        return found
        except (OSError, ValueError, TypeError) as error:
            raise UsageError(f"{self._path}: the weight {name} cannot be read: {error}") from error
        return None


def _weights(graph: Any) -> list[_Stored]:
    """Every node that reads codes; one that dequantizes before one that looks up."""
    found = []
    for node in graph:
        names = ["" if value is None else str(value.name) for value in node.inputs]
        if node.op_type == "DequantizeLinear":
            found.append(_Stored(names[0], names[1], "".join(names[2:3]) or None, node))
        elif node.op_type == "MatMulNBits":
            stored = _Stored(names[1], names[2], "".join(names[3:4]) or None, node)
            found += _side_by_side(stored) or [stored]
        elif node.op_type == "QMoE":
            found += _of_experts(node, names)
        elif node.op_type == "GatherBlockQuantized":
            found.append(_Stored(names[0], names[2], None, node))
        elif node.op_type == "Gather":
            found.insert(0, _Stored(names[0], f"{names[0]}.scale", None, None))
    return found


def _side_by_side(stored: _Stored) -> list[_Stored]:
    """The weights of a product of several, as `awqc.export.ort` says which they are."""
    found, start = [], 0
    try:
        for name, rows in json.loads(stored.node.metadata_props.get(ROWS_OF, "[]")):
            found.append(replace(stored, start=start, weight=f"{name}{PACKED}"))
            start += int(rows)
    except (ValueError, TypeError):
        return []
    return found


def _of_experts(node: Any, names: list[str]) -> list[_Stored]:
    """The weights of experts, as `awqc.fusion.mixtures` says which they are, if it does."""
    names = [*names, *[""] * len(names)]
    parts: dict[tuple[str, int], list[tuple[int, int, int, int]]] = {}
    try:
        told = json.loads(node.metadata_props.get(ROWS_OF, "{}"))
        for codes in STACKS:
            for expert, turns in enumerate(told.get(str(codes), ())):
                for turn, (weight, row) in enumerate(turns):
                    place = (int(row), expert, turn, len(turns))
                    parts.setdefault((str(weight), codes), []).append(place)
    except (ValueError, TypeError, AttributeError):
        return []
    return [
        _Stored(
            names[codes], names[STACKS[codes][0]], names[STACKS[codes][1]] or None, node,
            weight=f"{weight}{EXPERT}", turns=tuple(sorted(places)),
        )
        for (weight, codes), places in parts.items()
    ]  # fmt: skip


def _names(stored: _Stored) -> list[str]:
    names = [stored.codes, stored.scale, stored.zero_point]
    return [name for name in names if name is not None]


def _check_inside(tensor: Any, path: Path) -> None:
    if isinstance(tensor, ir.ExternalTensor):
        place = path.parent / tensor.location
        if place.resolve().parent != path.parent.resolve() or place.is_symlink():
            raise UsageError(
                f"{path}: keeps the tensor {tensor.name} in {str(tensor.location)!r}, which is no "
                "file beside it; such a model is not read"
            )


def _from_qdq(
    tensors: dict[str, Any], stored: _Stored, rows: int, columns: int, form: IntGrid
) -> Codes | None:
    """Codes in ONNX's own types: ``(columns, rows)``, or the shape of the weight."""
    attributes = {} if stored.node is None else stored.node.attributes
    axis = attributes["axis"].as_int() if "axis" in attributes else 0
    block = attributes["block_size"].as_int() if "block_size" in attributes else 0
    turned = axis == (0 if block else 1)
    values = [tensors[name] for name in _names(stored)]
    if values[0].dtype not in WIDTHS or values[0].size != rows * columns:
        return None
    bits = WIDTHS[values[0].dtype]
    codes = _unsigned(values[0])
    codes = codes.T if turned and codes.ndim == 2 else codes.reshape(rows, columns)
    groups = [values[1].numpy(), *(_unsigned(value) for value in values[2:])]
    if block:
        groups = [group.T if turned else group for group in groups]
    return _codes(codes, groups, bits, block, form)


def _from_product(
    tensors: dict[str, Any], stored: _Stored, rows: int, columns: int, form: IntGrid
) -> Codes | None:
    """Codes as ``MatMulNBits`` takes them: ``(rows, blocks, bytes)``."""
    attributes = stored.node.attributes
    bits, block = attributes["bits"].as_int(), attributes["block_size"].as_int()
    count, stop = attributes["N"].as_int(), stored.start + rows
    if attributes["K"].as_int() != columns or stop > count or not (stored.weight or rows == count):
        return None
    blocks = -(-columns // block)
    whole = [tensors[name].numpy().reshape(count, -1) for name in _names(stored)]
    values = [value[stored.start : stop] for value in whole]
    codes = _unpack(values[0], bits, blocks * block)[:, :columns]
    zeros = [_unpack(value, bits, blocks) for value in values[2:]]
    return _codes(codes, [values[1], *zeros], bits, block, form)


def _from_experts(
    tensors: dict[str, Any], stored: _Stored, rows: int, columns: int, form: IntGrid
) -> Codes | None:
    """Codes as ``QMoE`` takes them: ``(experts, rows, bytes)``."""
    attributes = stored.node.attributes
    bits, block = attributes.get_int("expert_weight_bits", 4), attributes.get_int("block_size", 0)
    whole = [tensors[name].numpy() for name in _names(stored)]
    last = max(expert for _, expert, _, _ in stored.turns)
    if block < 1 or any(array.ndim != EXPERT_AXES or len(array) <= last for array in whole):
        return None
    codes, scale, *zeros = (
        np.concatenate([array[expert, turn::turns] for _, expert, turn, turns in stored.turns])
        for array in whole
    )
    if len(codes) != rows:
        return None
    blocks = -(-columns // block)
    unpacked = _unpack(codes, bits, blocks * block)[:, :columns]
    return _codes(
        unpacked, [scale, *(_unpack(value, bits, blocks) for value in zeros)], bits, block, form
    )


def _from_table(
    tensors: dict[str, Any], stored: _Stored, rows: int, columns: int, form: IntGrid
) -> Codes | None:
    """Bytes and a scale a row, as ``GatherBlockQuantized`` takes them."""
    codes, scale = (tensors[name].numpy() for name in _names(stored))
    if codes.shape != (rows, columns):
        return None
    return _codes(codes, [scale], 8, 0, form)


def _codes(codes: Array, groups: list[Array], bits: int, block: int, form: IntGrid) -> Codes | None:
    """Undo what an exporter does: move codes up and down, and spread groups over blocks.

    None where blocks differ that should be of one group.
    """
    columns = codes.shape[1]
    blocks = -(-form.width(columns) // block) if block else 1
    spread = [group.reshape(codes.shape[0], -1) for group in groups]
    scale, *zeros = gathered = [group[:, ::blocks] for group in spread]
    even = all(
        np.array_equal(np.repeat(few, blocks, axis=1)[:, : many.shape[1]], many)
        for few, many in zip(gathered, spread, strict=True)
    )
    wanted = form.groups(columns)
    if not even or scale.shape[1] != wanted or bool(zeros) == form.symmetric:
        return None
    if form.symmetric:
        codes = codes - np.uint8(form.lift(bits))
    tensors = [torch.from_numpy(np.array(array)) for array in (codes, scale, *zeros)]
    return Codes(tensors[0], tensors[1], tensors[2] if zeros else None)


def _unsigned(tensor: Any) -> Array:
    """Codes as uint8; signed ones are moved up by half of their range."""
    codes = StoredCodes.of(tensor).rows(0, tensor.shape[0])
    return np.asarray(codes.numpy().reshape(tensor.shape.numpy()))


def _unpack(packed: Array, bits: int, columns: int) -> Array:
    return np.asarray(unpack(torch.from_numpy(np.array(packed)), bits, columns).numpy())
