"""A convolution of three axes without a bias, as the operation that all convolutions are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from awqc.graph.ops import argument

aten = torch.ops.aten
AXES = 3


def plain_form(node: Node) -> Callable[..., Any] | None:
    """What to expand such a ``node`` by; None for any other.

    Translators give one of three axes a bias of zeros where it has none, ``(channels, 2)``, which
    onnxruntime refuses (onnxscript 0.7).
    """
    if node.target is not aten.conv3d.default or argument(node, "bias") is not None:
        return None
    return convolution


def convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sequence[int] = (1,),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    groups: int = 1,
) -> Tensor:
    """What ``aten.conv3d`` computes."""
    sizes = [[*each] * (AXES if len(each) == 1 else 1) for each in (stride, padding, dilation)]
    made: Tensor = aten.convolution.default(x, weight, bias, *sizes, False, [0] * AXES, groups)
    return made
