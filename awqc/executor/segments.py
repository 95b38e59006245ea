"""Where a program may be cut: pieces that are run, and worked on, one after another."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch.fx import Node

from awqc.graph.linears import as_linear, find_linears
from awqc.program import Program

FEW = 8
"""Tensors that may live at a cut: a decoder carries a stream, two rotations and a mask."""
SMALLEST = 2**23
"""Elements of weights in a segment, 32 MB in float32; smaller ones cost time and save little."""

SIZES = (int, torch.SymInt)


@dataclass(frozen=True)
class Segment:
    """A stretch of a program's nodes, in order.

    Attributes:
        nodes: the nodes; those that read weights belong wherever they are read.
    """

    nodes: tuple[Node, ...]


def whole(program: Program) -> list[Segment]:
    """The program as one segment."""
    return [Segment(tuple(program.graph.nodes))]


def cut(program: Program, few: int = FEW, smallest: int | None = None) -> list[Segment]:
    """The program in segments of at least ``smallest`` elements of weights each, or `SMALLEST`.

    A place to cut is a position in the graph's order inside no site's span (from the first reader
    of a tensor that its scales change to the last of its products) where at most ``few`` tensors
    live that are not merely returned; of those that no product lies between, the one with the
    fewest. Each segment has a product; a program without such a place is one segment.
    """
    return _joined(_finest(program, few), usual_size() if smallest is None else smallest)


def usual_size() -> int:
    """`SMALLEST`, as it is set."""
    return SMALLEST


def _joined(segments: list[Segment], smallest: int) -> list[Segment]:
    """Neighbours in one, until each but the last reads ``smallest`` elements of weights."""
    found: list[Segment] = []
    pending: tuple[Node, ...] = ()
    for segment in segments:
        pending += segment.nodes
        if weights_read(pending) >= smallest:
            found.append(Segment(pending))
            pending = ()
    if pending:
        found.append(Segment(pending))
    return found


def weights_read(nodes: Iterable[Node]) -> int:
    """Elements of the tensors of a program that ``nodes`` read, each tensor once."""
    reads = {each for node in nodes for each in node.all_input_nodes if is_weight(each)}
    sizes = {str(each.target): each.meta["val"].numel() for each in reads}
    return sum(sizes.values())


def _finest(program: Program, few: int) -> list[Segment]:
    """As many segments as there are places to cut."""
    nodes = list(program.graph.nodes)
    places = {node: place for place, node in enumerate(nodes)}
    live = _live(nodes, places)
    inside = _inside(program, places)
    products = {places[linear.node] for linear in find_linears(program.graph)}
    cuts: list[int] = []
    best: int | None = None
    seen = False
    for place in range(len(nodes)):
        if place in products:
            if best is not None and seen:
                cuts.append(best)
            best, seen = None, True
        elif seen and place + 1 < len(nodes) and place not in inside and live[place] <= few:
            best = place if best is None or live[place] < live[best] else best
    starts = [0, *(place + 1 for place in cuts)]
    return [
        Segment(tuple(nodes[start:stop]))
        for start, stop in zip(starts, [*starts[1:], len(nodes)], strict=True)
    ]


def is_weight(node: Node) -> bool:
    """Whether ``node`` reads a tensor of the program, which any segment can do."""
    return node.op == "get_attr"


def _live(nodes: list[Node], places: dict[Node, int]) -> list[int]:
    """How many tensors are made at or before each position and computed with after it.

    Inputs do not count, nor does what is returned, nor sizes.
    """
    change = [0] * (len(nodes) + 1)
    for node in nodes:
        readers = [places[user] for user in node.users if user.op != "output"]
        made = not is_weight(node) and node.op != "placeholder"
        if made and readers and not isinstance(node.meta.get("val"), SIZES):
            change[places[node]] += 1
            change[max(readers)] -= 1
    found, count = [], 0
    for step in change[:-1]:
        count += step
        found.append(count)
    return found


def _inside(program: Program, places: dict[Node, int]) -> set[int]:
    """Positions behind which a site that was entered is not left."""
    readers: dict[str, list[int]] = {}
    for node in program.graph.nodes:
        if is_weight(node):
            readers.setdefault(str(node.target), []).extend(places[user] for user in node.users)
    names = {node.name: place for node, place in places.items()}
    found: set[int] = set()
    for site in program.findings.sites:
        touched = [place for name in site.edits for place in readers.get(name, ())]
        touched += [names[reader.node] for reader in site.readers if reader.node in names]
        found.update(_between(touched))
    for node in program.graph.nodes:
        if node.op == "call_module":  # an observer, which belongs to what reads the same
            users = [user for read in node.all_input_nodes for user in read.users]
            products = [places[user] for user in users if as_linear(user) is not None]
            found.update(_between([places[node], *products]))
    return found


def _between(places: Iterable[int]) -> range:
    ordered = sorted(places)
    return range(ordered[0], ordered[-1]) if ordered else range(0)
