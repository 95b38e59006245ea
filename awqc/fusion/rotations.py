"""Positions turned into queries and keys, in one kernel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from awqc.fusion.heads import apart, flat, heads_come_first, turned
from awqc.fusion.onnx_values import Node, Value, dims, maker, with_scalar
from awqc.fusion.workbench import CONTRIB, Workbench
from awqc.targets.base import ROTARY

MOVING = ("Reshape", "Transpose", "Unsqueeze", "Squeeze", "Expand", "Cast")
MIXING = frozenset(
    {*MOVING, "Mul", "Add", "Sub", "Neg", "Concat", "Slice", "Split", "Gather", "GatherND"}
)
"""Operations that a rotation may be written in."""
FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16)
MOST_STEPS = 60


@dataclass(frozen=True)
class Rotation:
    """A rotation of pairs of channels, by angles that follow from the position.

    Attributes:
        source: what is rotated; heads apart.
        result: rotated, in the same layout.
        angles: two factors, the cosine and the sine in either order.
    """

    source: Value
    result: Value
    angles: tuple[Value, Value]
    heads: int
    width: int


def fuse_rotary(bench: Workbench, value: Value) -> Value:
    """Rotate ``value``, of heads apart, in one kernel, if it is rotated; what is read for it then.

    before:  q = x * cos + Concat(-x[r/2:], x[:r/2]) * sin    (and other ways to write it)
    after:   q = RotaryEmbedding(x, places, cos, sin)

    The tables of the kernel are the cosines and sines that the graph computes for the tokens at
    hand, made once for all layers, and ``places`` counts their rows: so it is exact for any
    position, whatever frequencies the model has and however they change. Interleaved pairs and
    pairs of halves, and rotations of a part of the channels, are tried until one is proved.
    """
    found = _match(bench, value) if ROTARY in bench.target.fused else None
    if found is None:
        return value
    why = ""
    for angles in (found.angles, found.angles[::-1]):
        for half in _halves(angles[0], found.width):
            for interleaved in (0, 1):
                after, why = _try(bench, found, angles, half, interleaved)
                if after is not None:
                    return after if found.result is value else value
    bench.apart[str(value.name)] = f"{ROTARY} does not compute the same in any of its forms: {why}"
    return value


def _try(
    bench: Workbench, found: Rotation, angles: Sequence[Value], half: int, interleaved: int
) -> tuple[Value | None, str]:
    """What is read for the result, in its layout, if it is proved; else why it is not."""
    attributes = {"num_heads": found.heads, "interleaved": interleaved}
    if 2 * half != found.width:
        attributes["rotary_embedding_dim"] = 2 * half
    source = flat(bench, found.source)
    kind = found.source.dtype
    tables = [_table(bench, angle, half, interleaved, kind) for angle in angles]
    places = _places(bench, found, tables[0])
    inputs = [source.value, places, *tables]
    at = found.result.producer()
    rotated = bench.add(ROTARY, inputs, (source.value,), domain=CONTRIB, at=at, **attributes)
    after = apart(bench, rotated, found.result)
    why = bench.switch(ROTARY, {found.result: after}, [source.origin])
    return (after, "") if why is None else (None, why)


def _table(bench: Workbench, angle: Value, half: int, interleaved: int, kind: Any) -> Value:
    """``(rows, half)`` of ``kind``: a row for each token of each row of ``angle``."""
    key = ("table", angle, half, interleaved, kind)
    if key not in bench.shared:
        angle = angle if interleaved else _once(bench, angle, half)
        last = (dims(angle) or [0])[-1]
        table = bench.add("Reshape", [angle, bench.constant([-1, last])])
        if last != half:
            bounds = ([0], [last], [1], [2]) if interleaved else ([0], [half], [1], [1])
            table = bench.add("Slice", [table, *(bench.constant(each) for each in bounds)])
        if angle.dtype != kind:
            table = bench.add("Cast", [table], to=int(kind))
        bench.shared[key] = table
    return bench.shared[key]


def _once(bench: Workbench, angle: Value, half: int) -> Value:
    """``angle`` made for half of the channels, if it is made for each twice; else ``angle``.

    before:  a = Unsqueeze(Cos(Concat(m, m)))
    after:   a = Cos(m)    with other axes of size 1
    """
    chain: list[Node] = []
    value = angle
    while (node := maker(value)) is not None and node.op_type != "Concat":
        if node.op_type not in ("Cos", "Sin", "Cast", "Unsqueeze"):
            found = with_scalar(node) if node.op_type in ("Mul", "Div") else None
            if found is None or found[0] is not node.inputs[0]:
                return angle
        if node.op_type != "Unsqueeze":
            chain.append(node)
        value = node.inputs[0]
    first = node.inputs[0] if node is not None else None
    sizes = dims(first) or [0]
    along = node.attributes.get_int("axis", 0) if node is not None else 0
    if first is None or list(node.inputs) != [first, first] or sizes[-1] != half:
        return angle
    if along not in (-1, len(sizes) - 1):
        return angle
    made: Value = first
    for node in reversed(chain):
        attributes = {name: held.value for name, held in node.attributes.items()}
        made = bench.add(node.op_type, [made, *node.inputs[1:]], (first,), at=node, **attributes)
        made.type = node.outputs[0].type
    return made


def _places(bench: Workbench, found: Rotation, table: Value) -> Value:
    """``(batch, tokens)``: the row of each token in ``table``."""
    angle = found.angles[0]
    own = (dims(angle) or [1])[0] != 1
    key = ("places", angle, own)
    if key not in bench.shared:
        zero, one = bench.constant(0), bench.constant(1)
        count = bench.add("Squeeze", [bench.add("Shape", [table], start=0, end=1)])
        rows = bench.add("Range", [zero, count, one])
        batch = bench.size(found.source, 0)
        every = bench.constant([-1])
        if own:
            shape = bench.add("Concat", [batch, every], axis=0)
            places = bench.add("Reshape", [rows, shape])
        else:
            tokens = bench.add("Shape", [rows])
            shape = bench.add("Concat", [batch, tokens], axis=0)
            places = bench.add("Expand", [rows, shape])
        bench.shared[key] = places
    return bench.shared[key]


def _halves(angle: Value, width: int) -> list[int]:
    """How many angles there may be for a head: each stands there once, or twice."""
    last = (dims(angle) or [0])[-1]
    return [h for h in (last // 2, last) if 0 < 2 * h <= width] if isinstance(last, int) else []


def _match(bench: Workbench, value: Value) -> Rotation | None:
    """What is mixed with two values that follow from positions alone, back to where it is one."""
    result = turned(value) or value
    order = {node: place for place, node in enumerate(bench.graph)}
    open_values: set[Value] = {result}
    angles: set[Value] = set()
    for _ in range(MOST_STEPS):
        if not open_values or len(angles) > 2 or any(maker(each) is None for each in open_values):
            return None
        if len(angles) == 2 and len(open_values) == 1:
            return _rotation(next(iter(open_values)), result, tuple(angles))
        latest = max(open_values, key=lambda each: order[each.producer()])
        node = latest.producer()
        if node.op_type not in MIXING:
            return None
        open_values.remove(latest)
        for each in node.inputs:
            if each is None or each.const_value is not None or each.dtype not in FLOATS:
                continue
            (open_values if bench.is_hidden(each) else angles).add(each)
    return None


def _rotation(source: Value, result: Value, angles: tuple[Value, ...]) -> Rotation | None:
    before, after = dims(source), dims(result)
    if before is None or after is None or len(before) != 4 or len(after) != 4:
        return None
    heads = after[1 if heads_come_first(result) else 2]
    own = before[1 if heads_come_first(source) else 2]
    if heads != own or before[3] != after[3] or not isinstance(heads, int):
        return None
    first, second = sorted(angles, key=lambda angle: str(angle.name))
    width = after[3]
    return (
        Rotation(source, result, (first, second), heads, width) if isinstance(width, int) else None
    )
