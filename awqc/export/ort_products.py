"""Products with low-bit weights, and those of one value side by side in one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from awqc.export.ort_weights import (
    is_codes,
    matmul_nbits,
    read_matrix,
    scales_lie_along_rows,
    why_not,
)
from awqc.kv_cache import PAST
from awqc.targets.base import Target

Array = NDArray[Any]
LEAST = 3
"""Products that one and a Split are fewer than: of two, as many operations remain."""


@dataclass(frozen=True)
class Product:
    """A MatMul with a weight that ``MatMulNBits`` can take.

    Attributes:
        node: the MatMul.
        dequantize: of the weight.
        turned: whether a Transpose stands between.
    """

    node: Any
    dequantize: Any
    turned: bool

    @property
    def name(self) -> str:
        """Of the weight."""
        return str(self.dequantize.inputs[0].name)

    @property
    def key(self) -> tuple[Any, ...]:
        """What products that can stand side by side have in common."""
        codes, scale = self.dequantize.inputs[:2]
        block = self.dequantize.attributes.get_int("block_size", 0)
        return (
            self.node.inputs[0], codes.dtype, scale.dtype, block, len(self.dequantize.inputs),
        )  # fmt: skip

    @cached_property
    def bias(self) -> Any | None:
        """The Add of a vector that alone reads the product, or None."""
        result = self.node.outputs[0]
        readers = [node for node, _ in result.uses()]
        if len(readers) != 1 or readers[0].op_type != "Add" or result.is_graph_output():
            return None
        other = readers[0].inputs[1 if readers[0].inputs[0] is result else 0]
        vector = other.const_value is not None and len(other.shape) == 1
        return readers[0] if vector and other.shape[0] == self.rows else None

    @property
    def rows(self) -> int:
        """Channels of the result."""
        return int(self.dequantize.inputs[0].shape[0 if self.turned else 1])

    @property
    def addend(self) -> Array:
        """What is added to the result, zeros where nothing is; ``(rows,)``."""
        kind = self.dequantize.inputs[1].dtype.numpy()
        if self.bias is None:
            return np.zeros(self.rows, kind)
        vector = next(each for each in self.bias.inputs if each.const_value is not None)
        return np.asarray(vector.const_value.numpy(), kind)


def find_products(graph: Any, target: Target) -> list[list[Product]]:
    """All products with low-bit weights; `LEAST` or more that read one value are in one list.

    Where ``target`` gains by that, and the model reads one token at a time, as those do that have a
    cache: of many tokens, taking the results apart costs more than calls do.
    """
    together = target.side_by_side and any(str(each.name).startswith(PAST) for each in graph.inputs)
    groups: dict[tuple[Any, ...], list[Product]] = {}
    for node in graph:
        if (
            node.op_type == "DequantizeLinear"
            and is_codes(node.inputs[0])
            and why_not(node, target) is None
        ):
            for product in _products(node):
                groups.setdefault(product.key, []).append(product)
    return [
        part
        for group in groups.values()
        for part in ([group] if together and len(group) >= LEAST else [[each] for each in group])
    ]


def side_by_side(group: list[Product], target: Target) -> tuple[list[Array | None], dict[str, int]]:
    """Codes, scales, zero points and what is added, row under row, and the attributes.

    before:  q, k, v = x @ Q, x @ K, x @ V
    after:   q, k, v = Split(x @ [Q K V])

    Each row keeps its codes, so that the result is the same; one product of many rows costs less
    than some of few.
    """
    parts: list[tuple[Array | None, ...]] = []
    attributes: dict[str, int] = {}
    for product in group:
        matrix = read_matrix(product.dequantize, product.turned, target)
        assert matrix is not None
        arrays, attributes = matmul_nbits(matrix)
        parts.append(arrays)
    joined = [_joined(arrays) for arrays in zip(*parts, strict=True)]
    added = any(product.bias is not None for product in group)
    added = added and (target.adds_vectors or len(group) > 1)
    vector = np.concatenate([product.addend for product in group]) if added else None
    rows = {"N": sum(product.rows for product in group)}
    return [*joined, *([None, vector] if added else [])], attributes | rows


def _joined(arrays: tuple[Array | None, ...]) -> Array | None:
    held = [array for array in arrays if array is not None]
    return np.concatenate(held) if held else None


def _products(dequantize: Any) -> Iterator[Product]:
    for reader, index in list(dequantize.outputs[0].uses()):
        turned = reader.op_type == "Transpose" and _swaps(reader)
        uses = list(reader.outputs[0].uses()) if turned else [(reader, index)]
        for product, place in uses:
            fits = product.op_type == "MatMul" and place == 1
            if fits and scales_lie_along_rows(dequantize, turned):
                yield Product(product, dequantize, turned)


def _swaps(transpose: Any) -> bool:
    perm = transpose.attributes.get("perm")
    return perm is None or list(perm.as_ints()) == [1, 0]
