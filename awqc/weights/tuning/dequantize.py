"""Dequantizing with gradients for what a format lets tune; it keeps nothing but the codes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from awqc.numerics.formats.base import QuantizedWeight


class _Dequantize(torch.autograd.Function):
    """The weight of tuned tensors; made anew for the gradient, so that nothing large is kept."""

    @staticmethod
    def forward(
        ctx: Any, weight: QuantizedWeight, roles: tuple[str, ...], *tuned: Tensor
    ) -> Tensor:
        ctx.weight, ctx.roles = weight, roles
        ctx.save_for_backward(*tuned)
        return _value(weight, roles, tuned)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Of each tuned tensor, through the operation of the format."""
        with torch.enable_grad():
            tuned = [tensor.detach().requires_grad_() for tensor in ctx.saved_tensors]
            value = _value(ctx.weight, ctx.roles, tuned)
        return None, None, *torch.autograd.grad(value, tuned, gradients)


def _value(weight: QuantizedWeight, roles: tuple[str, ...], tuned: Any) -> Tensor:
    return weight.with_tensors(dict(zip(roles, tuned, strict=True))).dequantize()


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
        rows = {role: tensor[wanted] for role, tensor in self.weight.tensors.items()}
        some = QuantizedWeight(self.weight.format, rows, (len(wanted), self.weight.columns))
        tuned = {role: tensor[wanted] for role, tensor in self.tuned.items()}
        return dequantize(some, tuned)[places]
