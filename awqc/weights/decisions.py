"""What becomes of each weight: quantized, and how finely, or left in float, and why."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.fx import Node

from awqc.findings import FLOAT, Decisions
from awqc.graph.linears import Linear, as_linear, find_linears
from awqc.graph.nodes import results_of
from awqc.graph.ops import argument
from awqc.numerics.formats.base import WeightFormat
from awqc.numerics.formats.found import fitting_format
from awqc.numerics.name_patterns import check_fits
from awqc.numerics.request import QuantizationSpec
from awqc.program import Program
from awqc.weights.unscaled import unscaled_weights

aten = torch.ops.aten
KERNELS_LEFT = "kernels of convolutions are left in float, as asked"
FEWEST = 16
"""Weights that share a scale, below which the scales outweigh what the codes save."""

SMALLEST_TABLE = 4096
"""Elements below which an embedding table is not worth the operations that unpack it."""


def decide(program: Program, spec: QuantizationSpec | None = None) -> Decisions:
    """What becomes of every weight of ``program`` that could be quantized.

    ``spec`` is the request; None: the program's own. What was settled for a whole, of which the
    program is a part, holds.

    Raises:
        UsageError: a pattern of the request fits no tensor.
    """
    if program.findings.settled is not None:
        return program.findings.settled
    spec = spec or program.quantization
    check_fits(spec.exclude, program.parameters().keys(), program.name)
    heads = head_weights(program)
    formats: dict[str, WeightFormat] = {}
    allocation = program.findings.allocation
    given = allocation.formats if allocation else {}
    refused: dict[str, str] = {}
    fallbacks: dict[str, str] = {}
    tables = {}
    for table in embedding_tables(program):
        name = str(table.target)
        reason = _left(given, name) or _refuse_table(spec, table)
        if reason is None:
            tables[name] = table
            columns = int(table.meta["val"].shape[1])
            formats[name] = _given(given, name, columns) or spec.table_format(columns)
        else:
            refused[name] = reason
    for linear in find_linears(program.graph):
        name = linear.weight_name
        if name in formats or name in refused:
            continue
        head = name in heads
        reason = _left(given, name) or _refuse(spec, linear, head)
        if reason is None:
            # Products that read each input channel with one column are grouped as asked; other
            # convolutions get one scale for each output channel.
            own = _given(given, name, linear.columns) if linear.pointwise else None
            cut = allocation.cut(name) if allocation else None
            formats[name] = own or spec.format_of(
                linear.columns, grouped=linear.pointwise, head=head, cut=cut
            )
            why = None if head else spec.why_not(linear.columns, grouped=linear.pointwise)
            if why is not None and own is None:
                fallbacks[name] = why
        else:
            refused[name] = reason
    for weight in unscaled_weights(program.graph):
        name = str(weight.target)
        if excluded := _left(given, name) or spec.excluded(name):
            refused[name] = excluded
        elif weight.meta["val"].ndim > 2 and spec.conv_bits == 0:
            refused[name] = KERNELS_LEFT
        elif (fewest := math.prod(weight.meta["val"].shape[1:])) < FEWEST:
            refused[name] = f"only {fewest} weights would share a scale"
        else:
            formats[name] = _unscaled(spec, weight)
    for name, reader in _unknown_readers(program, {*formats, *refused}).items():
        refused[name] = f"read by {reader}, which is no product that awqc quantizes"
    return Decisions(formats, frozenset(tables), refused, fallbacks)


def _given(formats: Mapping[str, str], name: str, columns: int) -> WeightFormat | None:
    """The format that the weight ``name`` was given by itself, if it was."""
    return fitting_format(formats[name], columns) if formats.get(name, FLOAT) else None


def _left(formats: Mapping[str, str], name: str) -> str | None:
    """Why the weight ``name`` stays in float by itself, if it does."""
    return "it is in float in the GGUF file" if formats.get(name) == FLOAT else None


def _unscaled(spec: QuantizationSpec, weight: Node) -> WeightFormat:
    """Matrices are grouped as asked; kernels get one scale for each channel of the first axis."""
    shape = weight.meta["val"].shape
    return spec.format_of(math.prod(map(int, shape[1:])), grouped=len(shape) == 2)


def _refuse(spec: QuantizationSpec, linear: Linear, head: bool) -> str | None:
    """Why ``linear``'s weight is left in float, or None if it is to be quantized."""
    if excluded := spec.excluded(linear.weight_name):
        return excluded
    if not linear.pointwise and spec.conv_bits == 0:
        return KERNELS_LEFT
    if head and spec.head_bits == 0:
        return "the head is left in float, as asked"
    if linear.blocks > 1 and linear.rows == linear.blocks:
        return f"depthwise: only {linear.columns} weights share a scale"
    for user in linear.weight.users:
        product = as_linear(user)
        if product is None or product.weight is not linear.weight:
            return f"the weight is also read by {user.name}"
    return None


def _refuse_table(spec: QuantizationSpec, table: Node) -> str | None:
    name = str(table.target)
    if excluded := spec.excluded(name):
        return excluded
    if spec.embed_bits == 0:
        return "embedding tables are left in float, as asked"
    if table.meta["val"].numel() < SMALLEST_TABLE:
        return "a small embedding table"
    for user in table.users:
        gathers, multiplies = (
            user.target is target and argument(user, "weight") is table
            for target in (aten.embedding.default, aten.linear.default)
        )
        if not gathers and not multiplies:
            return f"the embedding table is also read by {user.name}"
        if multiplies and spec.head_bits == 0:
            return "the head, which shares the table, is left in float, as asked"
    return None


def embedding_tables(program: Program) -> list[Node]:
    """Reads of floating 2-D tensors of the program that an embedding looks rows up in."""
    found: dict[Node, None] = {}
    for node in program.graph.nodes:
        if node.op == "call_function" and node.target is aten.embedding.default:
            table = argument(node, "weight")
            if table.op == "get_attr" and table.meta["val"].dtype.is_floating_point:
                found[table] = None
    return list(found)


def _unknown_readers(program: Program, known: set[str]) -> dict[str, str]:
    """Large float matrices that nobody decided about, with the operation that reads them."""
    found = {}
    for node in program.graph.nodes:
        if node.op != "get_attr" or str(node.target) in known or not node.users:
            continue
        value = node.meta["val"]
        if value.is_floating_point() and value.ndim > 1 and value.numel() >= SMALLEST_TABLE:
            reader = next(iter(node.users)).target
            name = getattr(reader, "__name__", str(reader)).removesuffix(".default")
            found[str(node.target)] = name
    return found


def head_weights(program: Program) -> set[str]:
    """Names of the weights whose product makes one of ``program.head_outputs``.

    The walk back from an output passes operations with one floating operand, such as casts,
    slices and softcaps.
    """
    linears = {linear.node: linear for linear in find_linears(program.graph)}
    found = set()
    for name, value in zip(program.outputs, results_of(program.graph), strict=True):
        step = value if name in program.head_outputs else None
        while isinstance(step, Node) and step not in linears:
            operands = [n for n in step.all_input_nodes if _is_activation(n)]
            step = operands[0] if len(operands) == 1 else None
        if isinstance(step, Node):
            found.add(linears[step].weight_name)
    return found


def _is_activation(node: Node) -> bool:
    value = node.meta.get("val")
    return (
        node.op == "call_function" and isinstance(value, Tensor) and value.dtype.is_floating_point
    )
