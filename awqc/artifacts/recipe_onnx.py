"""Codes of an earlier compile, read out of the ONNX that it published.

Initializers hold them in the forms that `awqc.export.onnx_weights` and `awqc.export.ort` write;
what is read is what was quantized, bit by bit, or nothing. Data files are read only where they
lie beside the model.
"""

from __future__ import annotations

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
from awqc.numerics.onnx_types import WIDTHS
from awqc.numerics.packing import unpack

Array = NDArray[Any]
PACKED, ROWS = ".packed", ".rows"


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
    name with what stands behind it.
    """

    codes: str
    scale: str
    zero_point: str | None
    node: Any
    start: int = 0
    weight: str = ""


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
        readers = (("", _from_qdq), (PACKED, _from_product), (".table", _from_table))
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
            found += _side_by_side(stored, graph) or [stored]
        elif node.op_type == "GatherBlockQuantized":
            found.append(_Stored(names[0], names[2], None, node))
        elif node.op_type == "Gather":
            found.insert(0, _Stored(names[0], f"{names[0]}.scale", None, None))
    return found


def _side_by_side(stored: _Stored, graph: Any) -> list[_Stored]:
    """The weights of a product of several; `awqc.export.ort` joins their names with a plus."""
    whole = stored.codes.removesuffix(PACKED)
    sizes = graph.initializers.get(f"{whole}{ROWS}")
    if sizes is None or sizes.const_value is None:
        return []
    rows = [int(size) for size in sizes.const_value.numpy()]
    starts = [sum(rows[:place]) for place in range(len(rows))]
    return [
        replace(stored, start=start, weight=f"{name}{PACKED}")
        for name, start in zip(whole.split("+"), starts, strict=False)
    ]


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
