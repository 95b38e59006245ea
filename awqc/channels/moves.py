"""Where the elements of a value go, and axes along which they all go the same way."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Move:
    """What an operation that moves elements makes of its operands.

    Attributes:
        shapes: of the operands.
        sources: for each result the numbers of its elements' sources over all operands, end to
            end; -1 marks elements that are zero.
    """

    shapes: tuple[Shape, ...]
    sources: tuple[Tensor, ...]

    @property
    def size(self) -> int:
        """How many elements the results have."""
        return sum(source.numel() for source in self.sources)

    def slim(self, operands: Sequence[Tensor], results: Mapping[int, Tensor]) -> Move:
        """This move for one index of each axis that goes through it whole and bears no labels.

        Such an axis of the one operand is an axis of each result, and every index of it moves as
        the others do. It gets size 1 at both ends::

            (2, 1500, 512) viewed as (2, 1500, 8, 64)     ->     (1, 1, 512) as (1, 1, 8, 64)

        Several operands stay as they are. Labels are given as to `takes`.
        """
        if len(self.shapes) != 1:
            return self
        shape, sources = self.shapes[0], self.sources
        for axis, known in enumerate(operands[0].shape):
            if known > 1 or shape[axis] == 1:
                continue
            choices = [
                [at for at in _axes_like(source, shape, axis) if not _labelled(results, index, at)]
                for index, source in enumerate(sources)
            ]
            if axes := next(product(*choices), None):
                pairs = zip(sources, axes, strict=True)
                sources = tuple(_first(source, shape, axis, at) for source, at in pairs)
                shape = (*shape[:axis], 1, *shape[axis + 1 :])
        return Move((shape,), sources)

    def takes(self, operands: Sequence[Tensor], results: Mapping[int, Tensor]) -> bool:
        """Whether labels of the operands, and of results by their index, fit its sizes."""
        ends = [
            *zip(operands, self.shapes, strict=True),
            *((labels, self.sources[index].shape) for index, labels in results.items()),
        ]
        return all(
            size in (1, known)
            for labels, shape in ends
            for size, known in zip(labels.shape, shape, strict=True)
        )


def _labelled(results: Mapping[int, Tensor], index: int, axis: int) -> bool:
    """Whether labels of result ``index`` depend on its ``axis``."""
    return index in results and results[index].shape[axis] > 1


def _axes_like(source: Tensor, shape: Shape, axis: int) -> list[int]:
    """The axes of a result that are ``axis`` of its operand of ``shape``, and nothing else."""
    alike = [at for at, size in enumerate(source.shape) if size == shape[axis]]
    return [at for at in alike if _is(source, shape, axis, at)]


def _is(source: Tensor, shape: Shape, axis: int, at: int) -> bool:
    """Whether index i of ``at`` holds what index 0 does, i steps along ``axis`` further on."""
    first, stride = source.select(at, 0), math.prod(shape[axis + 1 :])
    real = first >= 0
    if bool(((first // stride % shape[axis] != 0) & real).any()):
        return False
    steps = torch.arange(shape[axis]).reshape(-1, *(1,) * first.ndim) * stride
    return torch.equal(source.movedim(at, 0), torch.where(real, first + steps, first))


def _first(source: Tensor, shape: Shape, axis: int, at: int) -> Tensor:
    """The sources of index 0 of ``at``, numbered over an operand whose ``axis`` has size 1."""
    first, stride = source.narrow(at, 0, 1), math.prod(shape[axis + 1 :])
    return torch.where(first >= 0, first // (stride * shape[axis]) * stride + first % stride, first)
