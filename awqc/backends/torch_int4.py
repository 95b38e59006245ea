"""Let products with 4-bit weights run in torch's own int4 kernel, where it fits.

    before:  linear(x, dequantize(codes, scale, zero_point), b)
    after:   int4_linear(x, words, scales_and_zeros, group_size, b)

The kernel computes ``x (code - 8) * scale + zero`` with a float zero for each group, so that
``zero = (8 - zero_point) * scale``. It is fast in bfloat16 only: activations, scales and zeros
are rounded to it (a relative error of some 3e-3 in each product), whatever the model computes in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from awqc.linears import aten
from awqc.program import Program
from awqc.qparams import Granularity, dequantize_codes, unpack

GROUP_SIZES = (32, 64, 128, 256)
ROWS = 16
MIDPOINT = 8
MIDPOINTS = {3: 4, 4: 8}
"""Zero points of symmetric weights whose codes are stored in 4 bits."""


@dataclass(frozen=True)
class Replaced:
    """What the pass did.

    Attributes:
        fast: names of the weights that the kernel reads now.
        portable: why the other quantized weights are still dequantized at each run, by name.
    """

    fast: tuple[str, ...]
    portable: dict[str, str]


@dataclass(frozen=True)
class Parts:
    """The tensors that a dequantized weight is made of, and its value."""

    packed: Tensor
    scale: Tensor
    zero_point: Tensor | None
    value: Tensor


def int4_linear(
    x: Tensor, words: Tensor, scales_and_zeros: Tensor, group_size: int, bias: Tensor | None
) -> Tensor:
    """``x W^T + b`` by torch's int4 kernel on the CPU.

    Args:
        x: float ``(..., K)``.
        words: ``(N, K / 2)``, as ``aten._convert_weight_to_int4pack_for_cpu`` makes them.
        scales_and_zeros: bfloat16 ``(K / group_size, N, 2)``.
        group_size: columns a group.
        bias: ``(N,)`` or None.

    Returns:
        ``(..., N)`` in the dtype of ``x``.
    """
    rows = x.reshape(-1, x.shape[-1]).to(torch.bfloat16)
    product: Tensor = aten._weight_int4pack_mm_for_cpu(rows, words, group_size, scales_and_zeros)
    y = product.to(x.dtype).reshape(*x.shape[:-1], product.shape[-1])
    return y if bias is None else y + bias


def use_int4_kernels(program: Program) -> Replaced:
    """Replace each product with a 4-bit weight that the kernel can take; nothing else changes.

    Quantized weights are found by what they are computed from (``….packed`` and ``….scale``),
    and each is taken only if its codes give the very value that the graph computes.
    """
    fast: list[str] = []
    portable: dict[str, str] = {}
    constant = _constants(program)
    for node in list(program.graph.nodes):
        operands = [] if node in constant else [n for n in node.all_input_nodes if n in constant]
        for operand in operands:
            name = _weight_name(operand)
            if name is None:
                continue
            found = _refuse(node, operand) or _int4_weight(_parts(program, name, operand))
            if isinstance(found, str):
                portable[name] = found
            else:
                _replace(program, node, name, *found)
                fast.append(name)
    program.tidy()
    return Replaced(tuple(dict.fromkeys(fast)), portable)


def _constants(program: Program) -> set[Node]:
    """The nodes that are computed from tensors of the program alone."""
    found: set[Node] = set()
    for node in program.graph.nodes:
        sources = node.all_input_nodes
        computed = node.op == "call_function" and sources and all(n in found for n in sources)
        if node.op == "get_attr" or computed:
            found.add(node)
    return found


def _weight_name(operand: Node) -> str | None:
    """Name of the quantized weight that ``operand`` is the value of, or None."""
    names = [str(leaf.target) for leaf in _leaves(operand)]
    packed = [name.removesuffix(".packed") for name in names if name.endswith(".packed")]
    return packed[0] if packed and f"{packed[0]}.scale" in names else None


def _refuse(node: Node, operand: Node) -> str | None:
    """Why the reader of a dequantized weight is none that the kernel stands for."""
    if node.target is aten.linear.default and node.args[1] is operand:
        return None
    return f"read by {getattr(node.target, '__name__', node.target)}"


def _leaves(node: Node) -> list[Node]:
    if node.op == "get_attr":
        return [node]
    return [leaf for source in node.all_input_nodes for leaf in _leaves(source)]


def _parts(program: Program, name: str, operand: Node) -> Parts:
    tensors = {str(leaf.target): program.weight(str(leaf.target)) for leaf in _leaves(operand)}
    return Parts(
        tensors[f"{name}.packed"],
        tensors[f"{name}.scale"],
        tensors.get(f"{name}.zero_point"),
        _evaluate(program, operand),
    )


def _evaluate(program: Program, node: Node) -> Tensor:
    values: dict[Node, Any] = {}

    def value(step: Node) -> Any:
        if step not in values:
            if step.op == "get_attr":
                values[step] = program.weight(str(step.target))
            else:
                args, kwargs = torch.fx.node.map_arg((step.args, step.kwargs), value)
                values[step] = step.target(*args, **kwargs)  # type: ignore[operator]
        return values[step]

    with torch.no_grad():
        found = value(node)
    assert isinstance(found, Tensor)
    return found


def _int4_weight(parts: Parts) -> tuple[Tensor, Tensor, int] | str:
    """Words, scales with zeros, and the group size, for the kernel; or why it has none."""
    rows, columns = parts.value.shape
    groups = parts.scale.shape[1]
    if parts.packed.shape[1] != -(-columns // 2):
        return f"{parts.packed.shape[1] * 8 // columns} bits; the kernel takes 4"
    if columns % groups or columns // groups not in GROUP_SIZES:
        sizes = ", ".join(map(str, GROUP_SIZES))
        return f"{columns} columns in {groups} groups; the kernel takes groups of {sizes}"
    if rows % ROWS:
        return f"{rows} output channels; the kernel takes multiples of {ROWS}"
    group_size = columns // groups
    codes = unpack(parts.packed, 4, columns)
    zero_point = _zero_point(parts, codes, group_size)
    if zero_point is None:
        return "its codes do not give the weight that the graph computes"
    scale = parts.scale.float()
    zeros = (MIDPOINT - zero_point.float()) * scale
    pairs = torch.stack([scale, zeros], dim=-1).transpose(0, 1)
    words = aten._convert_weight_to_int4pack_for_cpu(codes.to(torch.int32), 1)
    return words, pairs.to(torch.bfloat16).contiguous(), group_size


def _zero_point(parts: Parts, codes: Tensor, group_size: int) -> Tensor | None:
    """The zero points with which ``codes`` give the weight's value exactly."""
    if parts.zero_point is not None:
        candidates = [parts.zero_point]
    else:
        candidates = [
            torch.full(parts.scale.shape, middle, dtype=torch.uint8)
            for middle in MIDPOINTS.values()
        ]
    granularity = Granularity(4, group_size)
    for zero_point in candidates:
        if torch.equal(dequantize_codes(codes, parts.scale, zero_point, granularity), parts.value):
            return zero_point
    return None


def _replace(
    program: Program, node: Node, name: str, words: Tensor, pairs: Tensor, group_size: int
) -> None:
    reads = [
        program.add_weight(f"{name}.int4_{what}", value, node)
        for what, value in (("words", words), ("scales_and_zeros", pairs))
    ]
    bias = node.args[2] if len(node.args) > 2 else node.kwargs.get("bias")
    made = program.call_op(node, int4_linear, node.args[0], *reads, group_size, bias)
    node.replace_all_uses_with(made)
    program.graph.erase_node(node)
