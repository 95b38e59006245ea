"""The pass ``calibrate``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from awqc.errors import CalibrationError
from awqc.linears import find_linears
from awqc.passes.base import Change
from awqc.passes.insert_observers import Observer
from awqc.program import Program
from awqc.progress import track


@dataclass(frozen=True)
class Calibrate:
    """Run the calibration batches, keep the statistics, and remove the observers.

        before:  x -> linear(W), observer(x)
        after:   x -> linear(W)                 statistics of x are known

    Requires: insert-observers.  Refuses: batches that make an activation NaN or infinite.
    """

    name: ClassVar[str] = "calibrate"
    keeps_output: ClassVar[bool] = True

    def apply(self, program: Program) -> list[Change]:
        """Run every batch once."""
        calls = [n for n in program.graph.nodes if n.op == "call_module"]
        modules = [(n, program.graph_module.get_submodule(str(n.target))) for n in calls]
        observers = {n: module for n, module in modules if isinstance(module, Observer)}
        found = list(observers.values())
        for index, batch in enumerate(track(program.calibration, "calibrate")):
            mask = batch.get(program.mask_input) if program.mask_input else None
            for observer in found:
                observer.active = True
                observer.mask = None if mask is None else mask.bool()
            program.run(batch)
            for observer in found:
                if observer.bad is not None:
                    raise CalibrationError(
                        f"{observer.reads}: its input holds {observer.bad} in calibration "
                        f"batch {index}; the float model itself overflows on this data. "
                        "Check the data and the weights, or leave the layer out with --exclude"
                    )
        readers: dict[str, list[str]] = {}
        for linear in find_linears(program.graph):
            readers.setdefault(linear.observed, []).append(linear.node.name)
        changes = []
        for call, observer in observers.items():
            if observer.accumulator.tokens == 0:
                changes.append(Change(observer.reads, "saw no token in calibration", refused=True))
            else:
                statistics = observer.accumulator.finish()
                for reader in readers[observer.key]:
                    program.statistics[reader] = statistics
                changes.append(
                    Change(observer.reads, f"calibrated on {observer.accumulator.tokens} tokens")
                )
            program.graph.erase_node(call)
        return changes
