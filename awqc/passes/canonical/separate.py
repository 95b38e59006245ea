"""Keep apart what masks keep apart: compute each expert's rows by themselves."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from awqc.graph.ops import argument, leading_arguments, set_argument
from awqc.graph.row_masks import by_row, masked, selecting_masks
from awqc.passes.base import Change
from awqc.passes.canonical.picked import entry
from awqc.program import Program

aten = torch.ops.aten

Parts = tuple[tuple[Node, Node], ...]
"""Masks that exclude each other, and the value under each."""


def separate_rows(program: Program) -> list[Change]:
    """``where(m, W h(where(m, a, 0) + where(n, b, 0)), 0)  ->  where(m, W h(a), 0)``.

    For ``h`` that works row by row, and ``m = (group == 0)``, ``n = (group == 1)``. So the hidden
    layer of each expert becomes a value of its own, which has scales and statistics of its own.
    """
    separator = _Separator(program)
    changes = []
    for node in list(program.graph.nodes):
        if node.target is not aten.linear.default or node not in separator.masks:
            continue
        source = argument(node, "input")
        own = separator.under(separator.masks[node], source, node)
        if own is not source:
            set_argument(node, "input", own)
            changes.append(Change(node.name, "computed on rows of its own"))
    program.graph.eliminate_dead_code()
    separator.delay()
    return changes


class _Separator:
    """Writes values anew that are only wanted under one mask."""

    def __init__(self, program: Program) -> None:
        self.masks = selecting_masks(program.graph)
        self._program = program
        self._parts: dict[Node, Parts] = {}
        self._written: dict[tuple[Any, Node], Node] = {}
        self._values: list[Node] = []
        for node in program.graph.nodes:
            if parts := self._of_sum(node):
                self._parts[node] = parts

    def _of_sum(self, node: Node) -> Parts:
        """The parts of a sum of masked values; empty if it is none."""
        if (selected := masked(node)) is not None:
            return (selected,) if _group(selected[0]) is not None else ()
        if node.target is not aten.add.Tensor or argument(node, "alpha") != 1:
            return ()
        operands = leading_arguments(node, 2)
        found = [self._parts.get(each, ()) for each in operands if isinstance(each, Node)]
        if len(found) != 2 or not all(found):
            return ()
        parts = found[0] + found[1]
        groups = [group for mask, _ in parts if (group := _group(mask)) is not None]
        exclusive = len(set(groups)) == len(parts) and len({group for group, _ in groups}) == 1
        return parts if exclusive else ()

    def under(self, mask: Node, node: Node, reader: Node) -> Node:
        """What equals ``node`` in the rows of ``mask``, written before ``reader``.

        It is ``node`` itself where nothing is simpler.
        """
        group = _group(mask)
        if group is None or (group, node) in self._written:
            return self._written.get((group, node), node)
        parts = {_group(other): value for other, value in self._parts.get(node, ())}
        if (own := parts.get(group)) is not None:
            self._values.append(own)
        elif (table := entry(group[0], node)) is not None:
            own = self._constant(table, group[1])
        else:
            inputs = [source for source in node.all_input_nodes if by_row(node, source)]
            simpler = {source: self.under(mask, source, reader) for source in inputs}
            changed = any(made is not source for source, made in simpler.items())
            own = self._copy(node, simpler, reader) if changed else node
        self._written[group, node] = own
        return own

    def _constant(self, table: Node, index: int) -> Node:
        """An entry of a constant, which is the same in all rows."""
        name = str(table.target)
        first = next(iter(self._program.graph.nodes))
        entry = self._program.weight(name)[index].clone()
        return self._program.add_weight(self._program.fresh_name(f"{name}.{index}"), entry, first)

    def _copy(self, node: Node, sources: dict[Node, Node], reader: Node) -> Node:
        with node.graph.inserting_before(reader):
            return node.graph.node_copy(node, lambda source: sources.get(source, source))

    def delay(self) -> None:
        """Compute the values that were taken from sums just before they are read."""
        places = {node: place for place, node in enumerate(self._program.graph.nodes)}
        for value in self._values:
            if value.op == "call_function":
                min(value.users, key=places.__getitem__).prepend(value)


def _group(mask: Node) -> tuple[Node, int] | None:
    """``(group, index)`` of a mask that says where ``group`` is ``index``."""
    if mask.target is not aten.eq.Scalar:
        return None
    group, index = leading_arguments(mask, 2)
    return (group, index) if isinstance(index, int) else None
