"""The pass ``untie-head``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch.fx import Node

from awqc.executor.run import NO_DATA, Run
from awqc.findings import Fact, Facts
from awqc.graph.linears import find_linears
from awqc.graph.nodes import module_path
from awqc.passes.base import Change, Pass
from awqc.program import Program
from awqc.weights.decisions import embedding_tables, head_weights

OWN = "head.weight"
"""How a name ends that no module gives."""


@dataclass(frozen=True)
class UntieHead(Pass):
    """Let a head that is its embedding's table read a tensor of its own.

        before:  embedding(W, ids) … linear(x, W)
        after:   embedding(W, ids) … linear(x, W')

    So it can have another width, be scaled and compensated; its codes take their own bytes beside
    the table's. A head that is none is left as it is.
    Keeps: float outputs, bit by bit.
    """

    name: ClassVar[str] = "untie-head"
    keeps_output: ClassVar[bool] = True

    @property
    def bars(self) -> Facts:
        """What speaks of weights by their names."""
        return frozenset({Fact.OBSERVERS, Fact.SITES, Fact.CODES})

    def apply(self, program: Program, run: Run = NO_DATA) -> list[Change]:
        """Give each such head its tensor; returns which."""
        tables = {str(table.target): table for table in embedding_tables(program)}
        shared = tables.keys() & head_weights(program)
        changes = []
        for linear in find_linears(program.graph):
            if (name := linear.weight_name) in shared:
                lookups = [user for user in tables[name].users if user is not linear.node]
                readers, own = _moving(program, name, linear.node, lookups)
                node = program.add_weight(own, program.kept(name), min(readers))
                for reader in readers:
                    reader.replace_input_with(linear.weight, node)
                    changes.append(Change(reader.name, f"reads {own} in place of {name}"))
        return changes


def _moving(
    program: Program, shared: str, head: Node, lookups: list[Node]
) -> tuple[list[Node], str]:
    """Who is to read another tensor than ``shared``, and its name: that of the reader's module.

    Where ``shared`` is the name of the head's, the lookups are.
    """
    taken = program.parameters().keys()
    for readers in ([head], lookups):
        own = f"{module_path(readers[0])}.weight"
        if module_path(readers[0]) and own not in taken:
            return readers, own
    return [head], f"{shared.rpartition('.')[0]}.{OWN}".removeprefix(".")
