"""The values that a weight of some format may take, and the nearest of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from operator import itemgetter
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils import _pytree as pytree


@dataclass(frozen=True)
class Grid:
    """``step * scale + shift`` for the whole numbers ``low <= step <= high``, group by group.

    A format makes it with one entry a group, ``(..., rows, groups)``; all tensors are float32 of
    one shape, which broadcasts to that of the values and steps that are asked about. The code
    of a step is ``step - low``.

    Attributes:
        scale: not zero, in most formats positive; values that ``dtype`` can hold.
        low: the smallest step; ``high`` is the largest.
        shift: of every value; None: there is none.
        dtype: of the stored scales.
    """

    scale: Tensor
    low: Tensor
    high: Tensor
    shift: Tensor | None
    dtype: torch.dtype

    def __init_subclass__(cls) -> None:
        """A grid is a tree of its tensors, of whatever class it is."""
        super().__init_subclass__()
        pytree.register_pytree_node(cls, _flatten, _unflatten)

    def nearest(self, values: Tensor) -> Tensor:
        """The steps that come nearest to ``values``. Nothing else rounds a weight."""
        shifted = values if self.shift is None else values - self.shift
        steps = (shifted / self.scale).round_()
        torch.maximum(steps, self.low, out=steps)
        torch.minimum(steps, self.high, out=steps)
        return steps

    def value(self, steps: Tensor) -> Tensor:
        """What ``steps`` stand for."""
        return self.value_(steps.clone())

    def value_(self, steps: Tensor) -> Tensor:
        """The same, in the place of ``steps``."""
        steps.mul_(self.scale)
        return steps if self.shift is None else steps.add_(self.shift)

    def snapped(self, scale: Tensor) -> Tensor:
        """The scales nearest to ``scale``, of the shape of the grid's own, that can be stored."""
        return scale.to(self.dtype).float()

    def map(self, change: Callable[[Tensor], Tensor]) -> Self:
        """This grid with each tensor changed."""
        held = {field.name: getattr(self, field.name) for field in fields(self)}
        changed: dict[str, Any] = {
            name: change(value) for name, value in held.items() if isinstance(value, Tensor)
        }
        return replace(self, **changed)

    def spread(self) -> Self:
        """For values ``(..., rows, groups, width)``."""
        return self.map(lambda tensor: tensor.unsqueeze(-1))

    def turned(self) -> Self:
        """Groups first: ``(groups, rows)``, or back."""
        return self.map(lambda tensor: tensor.T.contiguous())

    def lines(self) -> list[Self]:
        """A grid for each entry of the first axis; it shares the memory of this one."""
        return [self.map(itemgetter(index)) for index in range(len(self.scale))]

    def columns(self, width: int, columns: int) -> Self:
        """For values ``(columns, rows)``, of a grid that is turned: groups of ``width``."""
        return self.map(lambda tensor: tensor.repeat_interleave(width, dim=0)[:columns])


def _flatten(grid: Grid) -> tuple[list[Tensor], tuple[type[Grid], tuple[str, ...], dict[str, Any]]]:
    held = {field.name: getattr(grid, field.name) for field in fields(grid)}
    tensors = {name: value for name, value in held.items() if isinstance(value, Tensor)}
    others = {name: value for name, value in held.items() if name not in tensors}
    return list(tensors.values()), (type(grid), tuple(tensors), others)


def _unflatten(tensors: Iterable[Any], rest: Any) -> Grid:
    kind, names, others = rest
    made: Grid = kind(**dict(zip(names, tensors, strict=True)), **others)
    return made


pytree.register_pytree_node(Grid, _flatten, _unflatten)
