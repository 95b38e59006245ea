"""A sigmoid in the form that is right far below zero as well, where its error would show."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import SymInt, Tensor
from torch.fx import Node

from awqc.graph.families import CHANNEL_NORMS, LAYER_NORMS, MULTIPLIED, REARRANGED
from awqc.graph.nodes import shape_of

aten = torch.ops.aten


def gate_form(node: Node) -> Callable[..., Any] | None:
    """What to expand a sigmoid by whose small values become large again; else None.

    onnxruntime's own Sigmoid (1.31, on the CPU) is right to 1e-7 in absolute terms: at -12 it is
    off by 0.6 %, at -16 by half. A product takes that over, and a norm behind it, which divides
    by the deviation of what comes, makes it as large as any other value. So it is where the
    product goes straight into a norm, or where one value gates a whole channel, whatever comes
    behind: there are few of these. All other gates stay one operation.
    """
    if node.target is not aten.sigmoid.default or node.meta["val"].dtype != torch.float32:
        return None
    products = [user for user in node.users if user.target in MULTIPLIED]
    shows = any(_is_spread(node, product) or _is_normed(product) for product in products)
    return sigmoid if shows else None


def sigmoid(x: Tensor) -> Tensor:
    """``1 / (1 + exp(-x))``, right to the last digits wherever float32 has them."""
    return torch.reciprocal(torch.exp(-x) + 1)


def _is_spread(gate: Node, product: Node) -> bool:
    """Whether a value of ``gate`` weighs many of the product's."""
    gates, whole = shape_of(gate), shape_of(product)
    sizes = (*(1 for _ in range(len(whole) - len(gates))), *gates)
    return any(_is_one(size) and not _is_one(each) for size, each in zip(sizes, whole, strict=True))


def _is_one(size: int | SymInt) -> bool:
    return isinstance(size, int) and size == 1  # to ask a symbol would settle it


def _is_normed(value: Node) -> bool:
    norms = (*LAYER_NORMS, *CHANNEL_NORMS)
    return any(
        user.target in norms or (user.target in REARRANGED and _is_normed(user))
        for user in value.users
    )
