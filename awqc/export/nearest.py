"""Resizing to the nearest neighbour: the same neighbour in torch and in every runtime."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import SymInt, Tensor
from torch.fx import Node

from awqc.graph.ops import argument, has_argument, leading_arguments

aten = torch.ops.aten
Size = int | SymInt
NEAREST = {
    getattr(getattr(aten, f"upsample_nearest{axes}d"), overload)
    for axes in (1, 2, 3)
    for overload in ("vec", "default")
}
"""Result ``i`` is the element at ``floor(i * scale)``: of the input's size by the output's."""
NEAREST_OF_MIDDLES = {
    getattr(getattr(aten, f"_upsample_nearest_exact{axes}d"), overload)
    for axes in (1, 2, 3)
    for overload in ("vec", "default")
}
"""Result ``i`` is the element at ``floor((i + 1/2) * scale)``."""
RESIZED = (torch.float32, torch.float16)
"""Types that onnxruntime resizes on the CPU as well as elsewhere."""


def nearest_form(node: Node) -> Callable[..., Any] | None:
    """A function that does what ``node`` does by picking elements; None where it may stay.

    By powers of two, the translators' own ``Resize`` divides exactly and picks the same; runtimes
    have it for few types.
    """
    if node.target not in NEAREST | NEAREST_OF_MIDDLES:
        return None
    factors = _factors(node)
    doubled = all(each is not None and math.frexp(each)[0] == 0.5 for each in factors)
    known = has_argument(node.target, "scale_factors") and node.meta["val"].dtype in RESIZED
    if node.target in NEAREST and doubled and known:
        return None
    return partial(pick_nearest, factors=factors, centred=node.target in NEAREST_OF_MIDDLES)


def pick_nearest(
    x: Tensor,
    output_size: Sequence[Size] | None,
    *_: Any,
    factors: Sequence[float | None],
    centred: bool,
) -> Tensor:
    """Pick, along each of the last axes of ``x``, the nearest of its elements.

    Args:
        x: of shape ``(batch, channels, *sizes)``.
        output_size: of the last axes; None: their sizes times ``factors``.
        factors: one for each of these axes; None: the size asked for says it.
        centred: whether an element lies at its middle, or at its start.
    """
    for place in reversed(range(len(factors))):  # rows that grow are copied whole, which is faster
        factor, axis = factors[place], x.ndim - len(factors) + place
        size = x.shape[axis]
        if output_size is not None:
            wanted = output_size[place]
        else:
            assert factor is not None
            wanted = _times(size, factor)
        x = x.index_select(axis, _places(size, wanted, factor, centred, x.device))
    return x


def quotient(of: Tensor, by: Tensor) -> Tensor:
    """``of / by`` of two sizes in float32, to the last digit.

    OpenVINO multiplies by the reciprocal instead, and gets 0.49999997 for 47 / 94. What is left
    over is computed without rounding, and added: the quotient is split into two halves of 12 bits
    (T. J. Dekker, 1971: A floating-point technique for extending the available precision,
    section 5), whose products with a size below 4096 are exact.
    """
    about = of / by
    shifted = about * (2.0**12 + 1)
    coarse = shifted - (shifted - about)
    left = (of - coarse * by) - (about - coarse) * by
    return about + left / by


def _places(
    size: Size, wanted: Size, factor: float | None, centred: bool, device: torch.device
) -> Tensor:
    """Which element each result picks, computed in float32 as torch's kernel does."""
    scalar = partial(torch.full, (), dtype=torch.float32, device=device)
    counts: Any = (size, wanted)  # torch takes symbols too, and declares numbers alone
    results = torch.arange(counts[1], dtype=torch.float32, device=device)
    if centred:
        results = results + 0.5
    rounded = None if factor is None else float(np.float32(1.0 / factor))
    scale = quotient(*map(scalar, counts)) if rounded is None else rounded
    return (results * scale).to(torch.int64)  # cut off: none is negative


def _times(size: Size, factor: float) -> Size:
    if factor == int(factor):
        return size * int(factor)
    times: Size = torch.sym_int(size * factor)
    return times


def _factors(node: Node) -> list[float | None]:
    """How much each axis grows, where the call says that."""
    if has_argument(node.target, "scale_factors"):
        given = argument(node, "scale_factors")
        axes = node.meta["val"].ndim - 2
        return list(given) if given is not None else [None] * axes
    _, _, *scales = leading_arguments(node, 2 + node.meta["val"].ndim - 2)
    return [each if each else None for each in scales]
