"""Heads beside each other in one row, ``(batch, tokens, heads * width)``, and apart."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from awqc.fusion.onnx_values import Value, dims, maker
from awqc.fusion.workbench import Workbench

HEADS_FIRST = [0, 2, 1, 3]
"""``(batch, tokens, heads, width)`` as ``(batch, heads, tokens, width)``, and back."""


def turned(value: Value) -> Value | None:
    """Of ``(batch, heads, tokens, width)`` that was turned, the ``(batch, tokens, heads, width)``
    that it was."""
    node = maker(value, "Transpose")
    same = node is not None and list(node.attributes["perm"].as_ints()) == HEADS_FIRST
    return node.inputs[0] if same else None


@dataclass(frozen=True)
class Flat:
    """A value with its heads beside each other.

    Attributes:
        value: ``(batch, tokens, heads * width)``.
        origin: what it and the value with heads apart are both made of.
    """

    value: Value
    origin: Value


def flat(bench: Workbench, value: Value, *, heads_first: bool | None = None) -> Flat:
    """``value``, of heads apart, with its heads beside each other; as it was before, if it was.

    ``heads_first`` says whether heads come before tokens; by default its sizes do.
    """
    origin = value
    sizes = dims(value)
    if heads_come_first(value) if heads_first is None else heads_first:
        origin = turned(value) or value
        sizes = None if sizes is None else [sizes[place] for place in HEADS_FIRST]
        value = origin if origin is not value else bench.add("Transpose", [value], perm=HEADS_FIRST)
    node = maker(origin, "Reshape")
    if node is not None and _is_flat(node.inputs[0], origin):
        return Flat(node.inputs[0], node.inputs[0])
    made = bench.add("Reshape", [value, bench.constant([0, 0, -1])])
    made.type = origin.type
    if sizes is not None and isinstance(sizes[2], int) and isinstance(sizes[3], int):
        made.shape = ir.Shape([*sizes[:2], sizes[2] * sizes[3]])
    return Flat(made, origin)


def apart(bench: Workbench, value: Value, like: Value, *, heads_first: bool | None = None) -> Value:
    """``value`` in the layout of ``like``, which has heads beside each other or apart.

    ``heads_first`` says whether heads come before tokens in it; by default its sizes do.
    """
    sizes = dims(like)
    assert sizes is not None
    if len(sizes) == 3:
        return value
    turn = heads_come_first(like) if heads_first is None else heads_first
    batch, tokens, heads, width = [sizes[place] for place in HEADS_FIRST] if turn else sizes
    split = bench.add("Reshape", [value, bench.constant([0, 0, heads, width])])
    split.type, split.shape = like.type, ir.Shape([batch, tokens, heads, width])
    return bench.add("Transpose", [split], (like,), perm=HEADS_FIRST) if turn else split


def heads_come_first(value: Value) -> bool:
    """Whether heads come before tokens, of which the number is not known."""
    sizes = dims(value) or []
    return len(sizes) == 4 and isinstance(sizes[1], int) and not isinstance(sizes[2], int)


def _is_flat(source: Value, value: Value) -> bool:
    before, after = dims(source), dims(value)
    if before is None or after is None or len(before) != 3 or len(after) != 4:
        return False
    heads, width = after[2:]
    known = isinstance(heads, int) and isinstance(width, int)
    return known and before[2] == int(heads) * int(width)
