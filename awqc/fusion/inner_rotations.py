"""Positions turned into queries and keys by the attention itself, at their places in the cache."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from awqc.fusion.onnx_values import Node, Value, dims, maker, only_reader
from awqc.fusion.scores import Apart
from awqc.fusion.workbench import CONTRIB, Workbench
from awqc.kv_cache import POSITIONS
from awqc.targets.base import CACHED_ATTENTION, ROTARY

LAYOUT = ("Cast", "Expand", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")
"""Operations that move elements of their first operand."""
QUERY, KEY, VALUE, TOTAL, COSINES, SINES, ROWS = 0, 1, 2, 6, 7, 8, 9
"""Inputs of the attention."""


@dataclass(frozen=True)
class Turned:
    """An attention whose queries and keys are turned before it, alike.

    Attributes:
        node: the attention.
        query: what turns its queries, and ``key`` its keys.
    """

    node: Node
    query: Node
    key: Node

    @property
    def tables(self) -> tuple[Value, Value]:
        """Cosines and sines, a row for each token of each row."""
        return self.query.inputs[2], self.query.inputs[3]


def turn_inside(bench: Workbench) -> None:
    """Rotations inside of attention, and positions counted by places in the cache.

    before:  q = RotaryEmbedding(x, rows, cos(position_ids * f), sin(position_ids * f));  k likewise
             o, k, v = GroupQueryAttention(q, k', v', past_k, past_v, lengths, bias)
    after:   o, k, v = GroupQueryAttention(x, x', v', past_k, past_v, lengths, cos(places * f),
                                           sin(places * f), bias)

    The input of positions goes. Where angles are positions times constants, queries meet keys by
    the difference of their positions alone: a row that begins later, as behind padding on the
    left, gives the same counted from the first place of the cache. What such a model cannot be
    told is that positions are other than that, as where padding stands between tokens.

    All or nothing: each attention must be proved, and nothing else may read the positions.
    """
    positions = next((each for each in bench.graph.inputs if each.name == POSITIONS), None)
    found = [each for node in bench.graph if (each := _turned(node)) is not None]
    if positions is None or not found or not bench.target.turns_positions:
        return
    try:
        for each in found:
            for table in each.tables:
                if not _follows(table, positions):
                    raise Apart("a rotation does not follow from the positions")
        made = [_build(bench, each, positions) for each in found]
        _check_readers(bench, found, made, positions)
        for each, outputs in zip(found, made, strict=True):
            _prove(bench, each, outputs, positions)
    except Apart as reason:
        bench.apart[POSITIONS] = str(reason)
        return
    for each, outputs in zip(found, made, strict=True):
        bench.put("rotation inside", dict(zip(each.node.outputs, outputs, strict=True)))
    bench.graph.inputs.remove(positions)
    bench.counts_places = True


def _turned(node: Node) -> Turned | None:
    if node.op_type != CACHED_ATTENTION or (len(node.inputs) > COSINES and node.inputs[COSINES]):
        return None
    query, key = (maker(node.inputs[place], ROTARY) for place in (QUERY, KEY))
    if query is None or key is None or query.inputs[1:] != key.inputs[1:]:
        return None
    if any(only_reader(each.outputs[0]) is not node for each in (query, key)):
        return None
    ways = [
        {name: each.value for name, each in node.attributes.items() if name != "num_heads"}
        for node in (query, key)
    ]
    return Turned(node, query, key) if ways[0] == ways[1] else None


def _follows(value: Value, positions: Value) -> bool:
    """Whether ``value`` is cosines or sines of ``positions`` times constants; else it is constant.

    Raises:
        Apart: it follows from the positions, or from something else, in another way.
    """
    if value is positions:
        return True
    node = maker(value)
    if node is None and value.const_value is not None:
        return False
    op = "an input" if node is None else node.op_type
    if op in (*LAYOUT, "Cos", "Sin"):
        return _follows(node.inputs[0], positions)
    if op in ("Concat", "Mul", "Div", "MatMul"):
        sides = [_follows(each, positions) for each in node.inputs]
        if op == "Concat" or (sum(sides) < 2 and not (op == "Div" and sides[1])):
            return any(sides)
    raise Apart(f"its angles are not positions times constants alone, but made by {op} too")


def _build(bench: Workbench, found: Turned, positions: Value) -> tuple[Value, Value, Value]:
    """The attention that turns queries and keys itself."""
    source = found.query.inputs[0]
    total = maker(found.node.inputs[TOTAL], "Cast").inputs[0]
    new = bench.size(source, 1)
    key = ("places", total, new)
    if key not in bench.shared:
        past = bench.add("Sub", [total, new])
        begin, end, count = (bench.add("Squeeze", [each]) for each in (past, total, new))
        zero, one = bench.constant(0), bench.constant(1)
        places = bench.add(
            "Unsqueeze", [bench.add("Range", [begin, end, one]), bench.constant([0])]
        )
        places.type = positions.type
        shape = bench.add("Concat", [bench.size(source, 0), new], axis=0)
        rows = bench.add("Expand", [bench.add("Range", [zero, count, one]), shape])
        pads = bench.add("Concat", [bench.constant([0, 0]), past, bench.constant([0])], axis=0)
        bench.shared[key] = places, rows, pads
    places, rows, pads = bench.shared[key]
    tables = [_table(bench, each, {positions: places}, pads) for each in found.tables]
    inputs = [found.query.inputs[0], found.key.inputs[0], *found.node.inputs[VALUE:COSINES]]
    inputs += [*tables, rows, *found.node.inputs[ROWS + 1 :]]
    attributes = {name: each.value for name, each in found.node.attributes.items()}
    attributes["do_rotary"] = 1
    attributes["rotary_interleaved"] = found.query.attributes.get_int("interleaved", 0)
    made: tuple[Value, Value, Value] = bench.add(
        CACHED_ATTENTION,
        inputs,
        tuple(found.node.outputs),
        domain=CONTRIB,
        at=found.node,
        **attributes,
    )
    return made


def _table(bench: Workbench, table: Value, places: Mapping[Value, Value], pads: Value) -> Value:
    """``table`` for the places, with as many rows as the kernel wants: those of the past are read
    by nothing."""
    key = ("places table", table)
    if key not in bench.shared:
        bench.shared[key] = bench.add("Pad", [_again(bench, table, places), pads])
    return bench.shared[key]


def _again(bench: Workbench, value: Value, instead: Mapping[Value, Value]) -> Value:
    """``value`` made once more, of other values."""
    if value in instead:
        return instead[value]
    node = maker(value)
    if node is None:
        return value
    key = ("again", value)
    if key not in bench.shared:
        inputs = [_again(bench, each, instead) for each in node.inputs]
        if inputs == list(node.inputs):
            return value
        attributes: dict[str, Any] = {name: each.value for name, each in node.attributes.items()}
        made = bench.add(node.op_type, inputs, at=node, **attributes)
        made.type = value.type
        bench.shared[key] = made
    return bench.shared[key]


def _check_readers(
    bench: Workbench, found: Sequence[Turned], made: Sequence[tuple[Value, ...]], positions: Value
) -> None:
    """Make sure that nothing needs ``positions`` any more; their sizes are read off another input.

    Raises:
        Apart: something does.
    """
    after = {each.node: new[0].producer() for each, new in zip(found, made, strict=True)}
    readers = [node for node in _alive(bench.graph, after) if positions in node.inputs]
    others = [node.op_type for node in readers if node.op_type != "Shape"]
    if others:
        raise Apart(f"its positions are read by {others[0]} as well, not by rotations alone")
    twin = next(
        (v for v in bench.graph.inputs if v is not positions and dims(v) == dims(positions)), None
    )
    if readers and twin is None:
        raise Apart("no other input has the sizes of its positions")
    for node in readers:
        node.replace_input_with(0, twin)


def _alive(graph: Any, after: Mapping[Node, Node]) -> Iterator[Node]:
    """The nodes that outputs of ``graph`` are made by, where those of ``after`` are replaced."""
    seen: set[Node] = set()
    waiting = [value.producer() for value in graph.outputs]
    while waiting:
        node = waiting.pop()
        node = after.get(node, node)
        if node is None or node in seen:
            continue
        seen.add(node)
        yield node
        waiting += [value.producer() for value in node.inputs if value is not None]


def _prove(bench: Workbench, found: Turned, made: Sequence[Value], positions: Value) -> None:
    """Compare, counted from the first place, and the result also where rows begin elsewhere."""
    stops = [found.query.inputs[0], found.key.inputs[0], found.node.inputs[VALUE]]
    why = bench.why_not(dict(zip(found.node.outputs, made, strict=True)), stops, positions)
    if why is not None:
        raise Apart(f"{CACHED_ATTENTION} does not turn positions as they are turned: {why}")
