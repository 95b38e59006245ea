"""The pass ``calibrate``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from torch import Tensor
from torch.fx import Node

from awqc.artifacts.statistics_file import read_statistics, write_statistics
from awqc.errors import CalibrationError, spelled
from awqc.executor.run import NO_DATA, Run
from awqc.findings import Fact, Facts
from awqc.graph.linears import find_linears
from awqc.passes.base import Change, Pass
from awqc.passes.insert_observers import Observer
from awqc.program import Program


@dataclass(frozen=True)
class Calibrate(Pass):
    """Run the calibration batches, keep the statistics, and remove the observers.

        before:  x -> linear(W), observer(x)
        after:   x -> linear(W)                 statistics of x are known

    With ``stats``, a file: where it exists, its statistics are taken and no batch is run;
    where it does not, the statistics are written there.
    Requires: insert-observers.  Refuses: batches that make an activation NaN or infinite,
    and statistics of another model.
    """

    stats: str = field(default="", metadata={"local": True, "files": lambda path: (path,)})
    name: ClassVar[str] = "calibrate"
    keeps_output: ClassVar[bool] = True
    needs: ClassVar[Facts] = frozenset({Fact.OBSERVERS})
    gives: ClassVar[Facts] = frozenset({Fact.STATISTICS})
    ends: ClassVar[Facts] = frozenset({Fact.OBSERVERS})

    def apply(self, program: Program, run: Run = NO_DATA) -> list[Change]:
        """Run every batch once, or read what an earlier run learned."""
        calls = [n for n in program.graph.nodes if n.op == "call_module"]
        modules = [(n, program.graph_module.get_submodule(str(n.target))) for n in calls]
        observers = {n: module for n, module in modules if isinstance(module, Observer)}
        path = Path(self.stats) if self.stats else None
        if path is not None and path.exists():
            changes = _read(program, path, list(observers.values()))
        else:
            for observer in observers.values():
                observer.accumulator.set_rank(run.ranks)
            _look(program, run, observers)
            for observer in observers.values():
                observer.accumulator.add_up(run.ranks)
            changes = _finish(program, observers.values())
            if path is not None and run.ranks.writes:
                write_statistics(program, path, _unseen(program, observers.values()))
        for call in observers:
            program.graph.erase_node(call)
        return changes


def _look(program: Program, run: Run, observers: dict[Node, Observer]) -> None:
    """Show every batch to the observers; what they do not see is not computed."""

    def start(mask: Tensor | None) -> None:
        for observer in observers.values():
            observer.active, observer.mask = True, mask

    def finish(batch: int) -> None:
        for observer in observers.values():
            if observer.bad is not None:
                raise CalibrationError(
                    f"{observer.reads}: its input holds {observer.bad} in calibration "
                    f"batch {batch}; the float model itself overflows on this data. "
                    "Check the data and the weights, or leave the layer out with "
                    f"{spelled('exclude')}"
                )

    run.observe(program, observers, start, finish, "calibrate")


def _readers(program: Program) -> dict[str, list[str]]:
    """Nodes of the products that read each observed matrix."""
    readers: dict[str, list[str]] = {}
    for linear in find_linears(program.graph):
        readers.setdefault(linear.observed, []).append(linear.node.name)
    return readers


def _finish(program: Program, observers: Iterable[Observer]) -> list[Change]:
    """Keep what the observers saw."""
    readers = _readers(program)
    statistics = dict(program.findings.statistics)
    changes = []
    for observer in observers:
        tokens = observer.accumulator.tokens
        if tokens == 0:
            changes.append(Change(observer.reads, "saw no token in calibration", refused=True))
            continue
        found = observer.accumulator.finish()
        statistics.update(dict.fromkeys(readers[observer.key], found))
        changes.append(Change(observer.reads, f"calibrated on {tokens} tokens"))
    program.learn(statistics=statistics)
    return changes


def _unseen(program: Program, observers: Iterable[Observer]) -> list[str]:
    """Nodes of the products that calibration never reached."""
    readers = _readers(program)
    empty = [observer.key for observer in observers if observer.accumulator.tokens == 0]
    return [node for key in empty for node in readers[key]]


def _read(program: Program, path: Path, observers: list[Observer]) -> list[Change]:
    """Take the statistics of an earlier run for what is observed now."""
    readers = _readers(program)
    wanted = {
        node: observer.accumulator.gram for observer in observers for node in readers[observer.key]
    }
    read = read_statistics(program, path, wanted)
    program.learn(statistics={**program.findings.statistics, **read})
    return [Change(observer.reads, f"statistics read from {path.name}") for observer in observers]
