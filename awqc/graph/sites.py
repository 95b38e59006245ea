"""Sites: where a scale may go, as the channel-flow analysis found it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

Status = Literal["foldable", "refused", "folded", "runtime"]


@dataclass(frozen=True)
class Reader:
    """A quantizable product that reads a scaled value.

    Attributes:
        node: name of the product's node.
        weight: name of its weight.
        classes: for each input channel the scale that divides it, or -1 for none.
    """

    node: str
    weight: str
    classes: Tensor


@dataclass(frozen=True)
class Site:
    """One set of scales, the products that profit, and the tensors that carry it.

    Attributes:
        name: unique; the module path of what produces the value, made readable.
        value: name of the node whose value is divided by the scales.
        readers: the products whose weights are multiplied by the scales.
        channels: number of channels of ``value``.
        scales: number of independent scales, after ties; 0 where the site is refused.
        edits: for each tensor that must change, the signed scale index of its elements
            (broadcastable to the tensor): ``k > 0`` multiplies by ``scale[k - 1]``,
            ``k < 0`` divides by ``scale[-k - 1]``, 0 leaves the element alone; ``k`` beyond
            the number of scales stands for the square root of the scale ``k - scales``.
            Two factors on one element are coded in one index, see `both_factors`.
        status: what became of the site.
        reason: why a site is refused, or why some of its channels cannot move.
    """

    name: str
    value: str
    readers: tuple[Reader, ...]
    channels: int
    scales: int
    edits: dict[str, Tensor]
    status: Status
    reason: str = ""

    def with_status(self, status: Status, reason: str | None = None) -> Site:
        """This site with another status, and another reason if one is given."""
        return replace(self, status=status, reason=self.reason if reason is None else reason)


def both_factors(first: Tensor, second: Tensor, scales: int) -> Tensor:
    """The code ``first + (4 scales + 1) second`` of two signed scale indices on one element."""
    return first + (4 * scales + 1) * second


def scale_factor(labels: Tensor, scale: Tensor) -> Tensor:
    """The factor that signed scale indices stand for: the shape of ``labels``, float32.

    ``labels`` are as in `Site.edits`, ``scale`` is ``(scales,)``.
    """
    factors = torch.cat([scale.float(), scale.float().sqrt()])
    both = torch.cat([factors.reciprocal().flip(0), torch.ones(1), factors])
    largest = factors.numel()
    shifted = labels + largest
    second = torch.div(shifted, both.numel(), rounding_mode="floor")
    first = shifted - second * both.numel()
    return both[first] * both[second + largest]


@dataclass(frozen=True)
class SiteScale:
    """What the search chose for a site.

    Attributes:
        scale: float32 ``(scales,)``; ``(channels,)`` at a site scaled at run time.
        candidate: how the scales were made.
        loss_nearest: calibration loss of rounding to nearest.
        loss: calibration loss with these scales.
    """

    scale: Tensor
    candidate: str
    loss_nearest: float
    loss: float
