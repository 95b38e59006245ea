"""How far the parts of a compiled folder are from the float model's, on what reaches them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def loss_of_parts(target: Path, modules: Mapping[str, Any], run: Callable[[], object]) -> float:
    """Of the worst part, while ``run`` runs the float model of ``modules``, relative to its norm.

    Parts are those that the report tells, so also what was found inside of what is no graph.
    """
    import torch

    from awqc.recording.entries import EntryPoint
    from awqc.recording.outermost import record_entries
    from awqc.recording.structures import constants
    from awqc.running.graphs import Graph, read_entries

    entries = read_entries(target, "")
    places = {EntryPoint(each.module, each.method) for each in entries.values()}
    torch.manual_seed(9)
    calls = record_entries(modules, places, run, places)
    graphs = [Graph(target, name, entry, "cpu") for name, entry in entries.items()]
    losses = [0.0]
    for call in calls:
        fitting = [
            each
            for each in graphs
            if (each.entry.module, each.entry.method) == (call.path, call.method)
            and each.fits(call.before, constants(call.arguments))
        ]
        made = max(fitting, key=lambda each: len(each.inputs)).run(call.before)
        for path, value in made.items():
            wanted = call.result[path].float()
            losses.append(float((value.float() - wanted).norm() / wanted.norm().clamp(min=1e-6)))
    return max(losses)
