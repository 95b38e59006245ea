"""What a weight format is, and a weight in one.

A weight is seen as a matrix ``(rows, columns)``: rows are output channels, columns are what is
summed over. Columns are cut into groups; the values that a group may take are a `Grid`. What
searches, rounds, compensates and tunes knows grids and asks the format for the rest.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from awqc.numerics.grid import Grid

Tensors = dict[str, Tensor]
"""What a weight is stored in, by role; rows are the first axis of each."""


class WeightFormat(ABC):
    """A way to store a matrix in few bits: a frozen dataclass; its fields are its parameters.

    Attributes:
        name: by which a user asks for it; empty where it takes parameters to say what is meant.
        roles: of the tensors that a weight is stored in, the packed codes first.
        tunable: of those among them that a gradient may change: floating, they enter the value
            smoothly.
        operation: ``(one tensor or None a role, shape, *constants) -> weight``. A quantized
            graph calls it; it is made of plain torch operations, so that `torch.export` traces
            through it and an archive needs no awqc.
    """

    name: ClassVar[str] = ""
    roles: ClassVar[tuple[str, ...]]
    tunable: ClassVar[tuple[str, ...]]
    operation: ClassVar[Callable[..., Tensor]]

    @abstractmethod
    def width(self, columns: int) -> int:
        """Columns that one full group spans, in a matrix of ``columns``."""

    @abstractmethod
    def grid(self, low: Tensor, high: Tensor, dtype: torch.dtype) -> Grid:
        """The grid of groups whose weights span ``[low, high]``: ``(..., rows, groups)``.

        Scales are values that ``dtype`` can hold, and so is every value of the grid.
        """

    @abstractmethod
    def encode(self, steps: Tensor, grid: Grid) -> Tensors:
        """What stores ``steps`` ``(rows, columns)`` of ``grid`` ``(rows, groups)``.

        Floating tensors are float32 here, with values that the grid's dtype can hold.
        """

    @abstractmethod
    def codes(self, tensors: Mapping[str, Tensor], columns: int) -> Tensor:
        """The steps above the smallest, one a byte: uint8 ``(rows, columns)``."""

    @abstractmethod
    def layout(self, rows: int, columns: int) -> dict[str, tuple[int, ...]]:
        """The shape of each tensor that a matrix is stored in."""

    @abstractmethod
    def nbytes(self, rows: int, columns: int, dtype: torch.dtype) -> int:
        """Bytes of a matrix, with floating tensors in ``dtype``."""

    @abstractmethod
    def fault(self, tensors: Mapping[str, Tensor]) -> str | None:
        """What is wrong with the scales of a stored weight, if anything."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """``bits``, ``group_size`` and ``format``, as reports show them."""

    @property
    @abstractmethod
    def levels(self) -> int:
        """How many codes there are; the largest is one less."""

    @property
    def code_roles(self) -> tuple[str, ...]:
        """Of the tensors whose bits are those of the codes: all zero is the first code."""
        return self.roles[:1]

    @property
    def two_ended(self) -> bool:
        """Whether the two ends of a group's range may move apart from one another."""
        return True

    @property
    def fine(self) -> bool:
        """Whether codes are so fine that compensating and tuning gain next to nothing."""
        return False

    @property
    def constants(self) -> tuple[Any, ...]:
        """The last arguments of `operation`."""
        return ()

    @classmethod
    def of_call(cls, present: frozenset[str], *constants: Any) -> Self:
        """The format of a call of `operation` with tensors for ``present`` roles."""
        return cls(*constants)

    def why_not(self, columns: int) -> str | None:
        """Why a matrix of ``columns`` has no place in this format, or None if it has."""
        return None

    def groups(self, columns: int) -> int:
        """Number of groups in a row of ``columns`` weights, the ragged one included."""
        return -(-columns // self.width(columns))

    def stored(self, value: Tensor, dtype: torch.dtype) -> Tensor:
        """Values of a tunable tensor as they will be stored for ``dtype``: float32."""
        return value.to(dtype).float()


@dataclass(frozen=True)
class QuantizedWeight:
    """A quantized weight.

    Attributes:
        format: says what the tensors mean.
        tensors: by role; rows first. A role may be missing, as zero points are where symmetric.
        shape: of the weight that this stands for; its elements in order are the matrix.
    """

    format: WeightFormat
    tensors: Mapping[str, Tensor]
    shape: tuple[int, ...]

    @property
    def rows(self) -> int:
        """Of the matrix: output channels."""
        return len(self.tensors[self.format.roles[0]])

    @property
    def columns(self) -> int:
        """Of the matrix."""
        return prod(self.shape) // self.rows if self.rows else 0

    @property
    def codes(self) -> Tensor:
        """uint8 ``(rows, columns)``, one a byte, from 0."""
        return self.format.codes(self.tensors, self.columns)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors, as they are stored."""
        dtype = next(t.dtype for t in self.tensors.values() if t.is_floating_point())
        return self.format.nbytes(self.rows, self.columns, dtype)

    def dequantize(self) -> Tensor:
        """The weight that this stands for, in ``shape``, in the dtype of its scales."""
        held = [self.tensors.get(role) for role in self.format.roles]
        return self.format.operation(*held, list(self.shape), *self.format.constants)

    def part(self, start: int, stop: int) -> QuantizedWeight:
        """Rows ``start`` to ``stop`` of the matrix that this stands for, as a matrix."""
        cut = {role: tensor[start:stop] for role, tensor in self.tensors.items()}
        count = min(stop, self.rows) - start
        return QuantizedWeight(self.format, cut, (count, self.columns))

    def some(self, start: int, stop: int) -> Tensor:
        """The same, dequantized."""
        return self.part(start, stop).dequantize()

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> QuantizedWeight:
        """This weight with other tensors for some roles."""
        return replace(self, tensors={**self.tensors, **tensors})

    def to(self, dtype: torch.dtype) -> QuantizedWeight:
        """This weight with its floating tensors in ``dtype``."""
        return self.with_tensors(
            {r: t.to(dtype) for r, t in self.tensors.items() if t.is_floating_point()}
        )


def bind_call(operation: Callable[..., Tensor], args: Any, kwargs: Any) -> list[Any]:
    """The arguments of a call of a format's operation, in order."""
    bound = inspect.signature(operation).bind(*args, **kwargs)
    bound.apply_defaults()
    return list(bound.arguments.values())


def to_groups(matrix: Tensor, form: WeightFormat) -> Tensor:
    """View ``(..., rows, columns)`` as ``(..., rows, groups, width)``; a ragged end repeats.

    The padding repeats the last column, so that minima and maxima of a group stay what
    they are.
    """
    columns = matrix.shape[-1]
    width, groups = form.width(columns), form.groups(columns)
    missing = groups * width - columns
    if missing:
        tail = matrix[..., -1:].expand(*matrix.shape[:-1], missing)
        matrix = torch.cat([matrix, tail], dim=-1)
    return matrix.reshape(*matrix.shape[:-1], groups, width)


def from_groups(grouped: Tensor, columns: int) -> Tensor:
    """Undo `to_groups`, dropping the padding: ``(..., rows, columns)``."""
    return grouped.flatten(-2)[..., :columns]
