"""The pass ``untie-head``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from awqc.executor.run import NO_DATA, Run
from awqc.findings import Fact, Facts
from awqc.graph.linears import find_linears
from awqc.passes.base import Change, Pass
from awqc.program import Program
from awqc.weights.decisions import embedding_tables, head_weights

OWN = "head.weight"


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
        tables = {str(table.target) for table in embedding_tables(program)}
        shared = tables & head_weights(program)
        changes = []
        for linear in find_linears(program.graph):
            table = linear.weight_name
            if table not in shared:
                continue
            name = f"{table.rpartition('.')[0]}.{OWN}".removeprefix(".")
            own = program.add_weight(name, program.kept(table), linear.node)
            linear.node.replace_input_with(linear.weight, own)
            changes.append(Change(linear.node.name, f"reads {name} in place of {table}"))
        return changes
