"""Products of an activation with a weight, in all their dresses, seen as one matrix product.

``linear`` and (grouped) convolution are both ``y = W x`` on matrices::

    W: (blocks, rows, columns)      x: (blocks, tokens, columns)

``rows`` are output channels, ``columns`` what is summed over; ``blocks`` are the groups of a
grouped convolution. The passes work on this view and need not know the operation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.fx import Graph, Node

from awqc.graph.families import CONVOLUTIONS
from awqc.graph.nodes import module_path
from awqc.graph.ops import argument
from awqc.graph.row_masks import selecting_masks

aten = torch.ops.aten
MAX_PATCHES = 4096


@dataclass(frozen=True)
class Linear:
    """A quantizable product in the graph.

    Attributes:
        node: the call.
        input: the activation.
        weight: the ``get_attr`` of the weight.
        blocks: groups of a grouped convolution, else 1.
        kernel: spatial sizes of a convolution's weight; empty for ``linear``.
        selected: mask of the rows of the input that matter, if only some do.
    """

    node: Node
    input: Node
    weight: Node
    blocks: int
    kernel: tuple[int, ...]
    selected: Node | None = None

    @property
    def weight_name(self) -> str:
        """Name of the weight tensor."""
        return str(self.weight.target)

    @property
    def name(self) -> str:
        """Module path, or the weight's name where the call sits at the top."""
        return module_path(self.node) or self.weight_name.removesuffix(".weight")

    @property
    def op(self) -> str:
        """``linear``, ``conv2d``, …"""
        assert isinstance(self.node.target, OpOverload)
        return str(self.node.target._schema.name).removeprefix("aten::")

    @property
    def rows(self) -> int:
        """Output channels of the whole weight."""
        return int(self.weight.meta["val"].shape[0])

    @property
    def columns(self) -> int:
        """Weights that are summed into one output, in one block."""
        return math.prod(int(s) for s in self.weight.meta["val"].shape[1:])

    @property
    def channels(self) -> int:
        """Input channels, over all blocks."""
        return int(self.weight.meta["val"].shape[1]) * self.blocks

    @property
    def pointwise(self) -> bool:
        """Whether each column is one input channel of the single block: a matrix product."""
        return self.blocks == 1 and math.prod(self.kernel) == 1

    @property
    def observed(self) -> str:
        """Key of the statistics of this product's input matrix; equal keys share them."""
        if not self.kernel:
            return self.input.name + (f"[{self.selected.name}]" if self.selected else "")
        shape = (self.blocks, self.kernel, *conv_options(self.node).values())
        return f"{self.input.name}{shape}".replace(" ", "")

    def matrix(self, weight: Tensor) -> Tensor:
        """``weight`` as ``(blocks, rows / blocks, columns)``."""
        return weight.reshape(self.blocks, self.rows // self.blocks, self.columns)

    def column_channels(self) -> Tensor:
        """For each ``(block, column)`` the input channel it multiplies: int64."""
        per_block = self.channels // self.blocks
        channels = torch.arange(self.channels).reshape(self.blocks, per_block)
        return channels.repeat_interleave(math.prod(self.kernel), dim=1)

    def input_rows(self, x: Tensor) -> Tensor:
        """The activation ``x`` as ``(blocks, tokens, columns)``.

        A convolution's patches are cut out; beyond `MAX_PATCHES` a call, evenly spaced
        ones are taken.
        """
        if not self.kernel:
            return x.reshape(1, -1, x.shape[-1])
        return _patches(x, self.blocks, self.kernel, conv_options(self.node))


def find_linears(graph: Graph) -> list[Linear]:
    """All products of an activation with a floating tensor of the program, in graph order."""
    masks = selecting_masks(graph)
    found = (as_linear(node, masks.get(node)) for node in graph.nodes)
    return [linear for linear in found if linear is not None]


def as_linear(node: Node, selected: Node | None = None) -> Linear | None:
    """``node`` as a `Linear`, or None if it is none; ``selected`` are the rows that matter."""
    if node.op != "call_function":
        return None
    blocks: int = 1
    kernel: tuple[int, ...] = ()
    if node.target is aten.linear.default:
        pass
    elif node.target in CONVOLUTIONS:
        groups = conv_options(node)["groups"]
        if not isinstance(groups, int):
            return None
        blocks = groups
        kernel = tuple(int(s) for s in _value(argument(node, "weight")).shape[2:])
    else:
        return None
    x, weight = argument(node, "input"), argument(node, "weight")
    assert isinstance(x, Node)
    assert isinstance(weight, Node)
    if weight.op != "get_attr" or not weight.meta["val"].dtype.is_floating_point:
        return None
    if weight.meta["val"].ndim != (2 + len(kernel) if kernel else 2):
        return None
    return Linear(node, x, weight, blocks, kernel, selected)


def _value(argument: Any) -> Tensor:
    value = argument.meta["val"]
    assert isinstance(value, Tensor)
    return value


def conv_options(node: Node) -> dict[str, Any]:
    """stride, padding, dilation and groups of a convolution, defaults filled in."""
    rank = CONVOLUTIONS[node.target]
    names = ("stride", "padding", "dilation", "groups")
    options = {name: argument(node, name) for name in names}
    for key in names[:-1]:
        value = options[key]
        if isinstance(value, int):
            value = (value,) * rank
        elif not isinstance(value, str) and len(value) == 1:
            value = tuple(value) * rank
        options[key] = value if isinstance(value, str) else tuple(value)
    return options


def _patches(x: Tensor, blocks: int, kernel: tuple[int, ...], options: dict[str, Any]) -> Tensor:
    """Patches of ``x`` ``(batch, channels, *space)`` as ``(blocks, tokens, columns)``."""
    if x.ndim == len(kernel) + 1:
        x = x.unsqueeze(0)
    dilation, stride = options["dilation"], options["stride"]
    spans = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    padding = options["padding"]
    if padding == "valid":
        pads = [(0, 0)] * len(kernel)
    elif padding == "same":
        pads = [((span - 1) // 2, span - 1 - (span - 1) // 2) for span in spans]
    else:
        pads = [(p, p) for p in padding]
    x = torch.nn.functional.pad(x, [side for pair in reversed(pads) for side in pair])
    for axis, (span, step, gap) in enumerate(zip(spans, stride, dilation, strict=True)):
        x = x.unfold(2 + axis, span, step)[..., ::gap]
    # x: (batch, channels, *positions, *kernel)
    rank = len(kernel)
    x = x.movedim(1, 1 + rank)  # (batch, *positions, channels, *kernel)
    positions = x.shape[: 1 + rank]
    total = math.prod(positions)
    if total > MAX_PATCHES:
        chosen = torch.linspace(0, total - 1, MAX_PATCHES).long()
        x = x[torch.unravel_index(chosen, positions)]
    x = x.reshape(min(total, MAX_PATCHES), blocks, -1)
    return x.transpose(0, 1)
