"""Running batches through a program for those who look on."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from mmap import mmap

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node

from awqc.graph.nodes import results_of
from awqc.machine.devices import CPU, moved, place
from awqc.machine.memory import LARGE, forget, trim, unchanged_maps
from awqc.machine.products import quick_products
from awqc.machine.progress import track
from awqc.program import Batch, Program

FORGET = "_forget"
FORGETS = 8
"""How often in a batch mapped weights leave memory: an eighth of them is there at once."""


@torch.no_grad()
def sweep(
    program: Program,
    batches: Sequence[Batch],
    calls: Collection[Node],
    device: torch.device,
    start: Callable[[Tensor | None], None],
    finish: Callable[[int], None],
    what: str,
    keep: Collection[str] = (),
) -> list[Batch]:
    """Run all batches through ``program``; only what ``calls`` read, and what is kept, is computed.

    Args:
        program: the graph, which stays as it is.
        batches: what goes in.
        calls: calls of modules that look at values.
        device: where it is computed.
        start: called before a batch with the mask of its tokens, where it has one.
        finish: called after a batch, with its index.
        what: the words beside the progress bar.
        keep: names of outputs that are returned for each batch.
    """
    made = dict(zip(program.outputs, results_of(program.graph), strict=True))
    piece = _Piece(program, calls, {name: made[name] for name in keep}, device)
    found = []
    for number, batch in enumerate(track(batches, what)):
        mask = batch.get(program.mask_input) if program.mask_input else None
        start(None if mask is None else mask.to(device).bool())
        with quick_products():
            found.append(piece.run(batch))
        trim()
        finish(number)
    piece.let_go()
    return found


def _needed(calls: Collection[Node]) -> set[Node]:
    """``calls`` and what they read, directly or not."""
    found, pending = set(calls), list(calls)
    while pending:
        for node in pending.pop().all_input_nodes:
            if node not in found:
                found.add(node)
                pending.append(node)
    return found


class _Piece:
    """What some calls and results need of a program, as a module."""

    def __init__(
        self,
        program: Program,
        calls: Collection[Node],
        kept: Mapping[str, Node],
        device: torch.device,
    ) -> None:
        self._inputs, self._kept, self._device = program.inputs, kept, device
        self._module = self._build(program, _needed([*calls, *kept.values()]))
        if device == CPU:  # Where it is another, nothing of a file is read on the way.
            _forget_weights_on_the_way(self._module)
        place(self._module, device)

    def _build(self, program: Program, needed: set[Node]) -> GraphModule:
        graph = Graph()
        copies: dict[Node, Node] = {}
        for node in program.graph.nodes:
            if node.op == "placeholder" or (node in needed and node.op != "output"):
                copies[node] = graph.node_copy(node, copies.__getitem__)
        graph.output(tuple(copies[node] for node in self._kept.values()))
        return GraphModule(program.graph_module, graph)

    def run(self, batch: Batch) -> Batch:
        """What is kept, for ``batch``."""
        found = self._module(*(moved(batch[spec.name], self._device) for spec in self._inputs))
        return {name: moved(value, CPU) for name, value in zip(self._kept, found, strict=True)}

    def let_go(self) -> None:
        """Drop the references to weights now: a module is a cycle, freed at some later time."""
        called = {str(n.target) for n in self._module.graph.nodes if n.op == "call_module"}
        for name, part in list(self._module.named_modules()):
            if name not in called:
                part._parameters.clear()
                part._buffers.clear()
        self._module._modules.pop(FORGET, None)


class _Forget(nn.Module):
    """Lets mapped weights leave memory; they are read anew, mostly from the file cache."""

    def __init__(self, maps: Sequence[mmap]) -> None:
        super().__init__()
        self.maps = maps

    def forward(self) -> None:
        forget(self.maps)


def _forget_weights_on_the_way(module: GraphModule) -> None:
    """Let mapped weights leave memory a few times in each run, if many: a run reads each once."""
    if sum(weight.nbytes for weight in module.parameters()) < LARGE:
        return
    if not (maps := unchanged_maps()):
        return
    calls = [node for node in module.graph.nodes if node.op == "call_module"]
    module.add_module(FORGET, _Forget(maps))
    for call in calls[:: max(1, len(calls) // FORGETS)]:
        with module.graph.inserting_after(call):
            module.graph.call_module(FORGET)
    module.recompile()
