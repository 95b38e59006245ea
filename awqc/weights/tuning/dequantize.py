"""Dequantizing with gradients for what a format lets tune; it keeps nothing but the codes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from awqc.numerics.formats.base import QuantizedWeight

ELEMENTS = 2**20
"""Of a weight that are dequantized at once: it takes several times as much, for a moment."""


class _Dequantize(torch.autograd.Function):
    """The weight of tuned tensors; made anew for the gradient, so that nothing large is kept."""

    @staticmethod
    def forward(
        ctx: Any, weight: QuantizedWeight, roles: tuple[str, ...], *tuned: Tensor
    ) -> Tensor:
        ctx.weight, ctx.roles = weight, roles
        ctx.save_for_backward(*tuned)
        return _value(weight.with_tensors(dict(zip(roles, tuned, strict=True))))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Of each tuned tensor, through the operation of the format."""
        weight: QuantizedWeight = ctx.weight
        upstream = gradients[0].reshape(weight.rows, weight.columns)
        found = [torch.empty_like(tensor) for tensor in ctx.saved_tensors]
        for part in _slices(weight):
            with torch.enable_grad():
                tuned = [tensor[part].detach().requires_grad_() for tensor in ctx.saved_tensors]
                some = _rows(weight, part).with_tensors(dict(zip(ctx.roles, tuned, strict=True)))
                value = some.dequantize()
            made = torch.autograd.grad(value, tuned, upstream[part])
            for whole, rows in zip(found, made, strict=True):
                whole[part] = rows
        return None, None, *found


def _value(weight: QuantizedWeight) -> Tensor:
    first, *rest = _slices(weight)
    if not rest:
        return weight.dequantize()
    rows = _rows(weight, first).dequantize()
    whole = rows.new_empty(weight.rows, weight.columns)
    whole[first] = rows
    for part in rest:
        whole[part] = _rows(weight, part).dequantize()
    return whole.reshape(weight.shape)


def _slices(weight: QuantizedWeight) -> list[slice]:
    """Rows of the matrix, a few at a time; at least one slice."""
    step = max(1, ELEMENTS // max(1, weight.columns))
    return [slice(start, start + step) for start in range(0, max(1, weight.rows), step)]


def _rows(weight: QuantizedWeight, chosen: slice | Tensor) -> QuantizedWeight:
    """Some rows of the matrix that ``weight`` stands for."""
    held = {role: tensor[chosen] for role, tensor in weight.tensors.items()}
    count = len(held[weight.format.roles[0]])
    return QuantizedWeight(weight.format, held, (count, weight.columns))


def dequantize(weight: QuantizedWeight, tuned: Mapping[str, Tensor]) -> Tensor:
    """``weight`` with the tensors ``tuned``, by role, in place of its own, in its shape.

    Gradients flow to them; no float copy of the weight is kept for that.
    """
    result: Tensor = _Dequantize.apply(  # type: ignore[no-untyped-call]  # torch declares no types for apply
        weight, tuple(tuned), *tuned.values()
    )
    return result


@dataclass(frozen=True)
class TunedWeight:
    """A quantized weight with other tensors for some roles, of which its value is made when asked.

    Attributes:
        weight: the codes, and what is not tuned.
        tuned: by role.
    """

    weight: QuantizedWeight
    tuned: Mapping[str, Tensor]

    def whole(self) -> Tensor:
        """The weight, in its shape; gradients flow to ``tuned``."""
        return dequantize(self.weight, self.tuned)

    def look_up(self, ids: Tensor) -> Tensor:
        """Rows ``ids`` of a table ``(rows, columns)``: ``(*ids.shape, columns)``."""
        wanted, places = ids.unique(return_inverse=True)
        tuned = {role: tensor[wanted] for role, tensor in self.tuned.items()}
        return dequantize(_rows(self.weight, wanted), tuned)[places]
