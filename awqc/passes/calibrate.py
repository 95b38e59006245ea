"""The pass ``calibrate``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from mmap import mmap
from pathlib import Path
from typing import ClassVar

import torch
from torch import nn
from torch.fx import Graph, GraphModule

from awqc.artifacts.statistics_file import read_statistics, write_statistics
from awqc.errors import CalibrationError, spelled
from awqc.executor.run import NO_DATA, Run
from awqc.findings import Fact, Facts
from awqc.graph.linears import find_linears
from awqc.machine.devices import parse_device, place
from awqc.machine.memory import forget, trim, unchanged_maps
from awqc.machine.progress import track
from awqc.passes.base import Change, Pass
from awqc.passes.insert_observers import Observer
from awqc.program import Program

FORGET = "_forget"
FORGETS = 8
"""How often in a batch mapped weights leave memory: an eighth of them is there at once."""


@dataclass(frozen=True)
class Calibrate(Pass):
    """Run the calibration batches, keep the statistics, and remove the observers.

        before:  x -> linear(W), observer(x)
        after:   x -> linear(W)                 statistics of x are known

    With ``stats``, a file: where it exists, its statistics are taken and no batch is run;
    where it does not, the statistics are written there. On ``device`` the batches are run; the
    statistics come back.
    Requires: insert-observers.  Refuses: batches that make an activation NaN or infinite,
    and statistics of another model.
    """

    stats: str = field(default="", metadata={"local": True, "files": lambda path: (path,)})
    device: str = field(default="cpu", metadata={"local": True})
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
            _run(program, run, list(observers.values()), parse_device(self.device))
            changes = _finish(program, observers.values())
            if path is not None:
                write_statistics(program, path, _unseen(program, observers.values()))
        for call in observers:
            program.graph.erase_node(call)
        return changes


def _run(
    program: Program, run: Run, observers: list[Observer], device: torch.device
) -> None:
    """Show every batch to the observers; what they do not see is not computed."""
    module = _without_outputs(program)
    _forget_weights_on_the_way(module)
    if device.type != "cpu":
        place(module, device)
    for index, here in enumerate(track(run.batches, "calibrate")):
        batch = {name: value.to(device) for name, value in here.items()}
        mask = batch.get(program.mask_input) if program.mask_input else None
        for observer in observers:
            observer.active = True
            observer.mask = None if mask is None else mask.bool()
        with torch.no_grad():
            module(*(batch[spec.name] for spec in program.inputs))
        trim()
        for observer in observers:
            if observer.bad is not None:
                raise CalibrationError(
                    f"{observer.reads}: its input holds {observer.bad} in calibration "
                    f"batch {index}; the float model itself overflows on this data. "
                    "Check the data and the weights, or leave the layer out with "
                    f"{spelled('exclude')}"
                )
    _let_go(module)


def _without_outputs(program: Program) -> GraphModule:
    """The graph of ``program`` that returns nothing and computes only what observers read."""
    graph = Graph()
    graph.graph_copy(program.graph, {})
    graph.output(())
    module = GraphModule(program.graph_module, graph)
    module.graph.eliminate_dead_code()
    module.recompile()
    return module


class _Forget(nn.Module):
    """Lets mapped weights leave memory; they are read anew, mostly from the file cache."""

    def __init__(self, maps: Sequence[mmap]) -> None:
        super().__init__()
        self.maps = maps

    def forward(self) -> None:
        forget(self.maps)


def _forget_weights_on_the_way(module: GraphModule) -> None:
    """Let mapped weights leave memory a few times in each run: a run reads each once."""
    if not (maps := unchanged_maps()):
        return
    calls = [node for node in module.graph.nodes if node.op == "call_module"]
    module.add_module(FORGET, _Forget(maps))
    for call in calls[:: max(1, len(calls) // FORGETS)]:
        with module.graph.inserting_after(call):
            module.graph.call_module(FORGET)
    module.recompile()


def _let_go(module: GraphModule) -> None:
    """Drop the references of ``module`` to weights now: it is a cycle, freed at some later time."""
    module._modules.pop(FORGET, None)
    for part in module.modules():
        if not isinstance(part, Observer):
            part._parameters.clear()
            part._buffers.clear()


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
