"""Running batches through a program, segment by segment, for those who look on."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from mmap import mmap
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node
from torch.utils import _pytree as pytree

from awqc.executor.segments import Segment, is_weight
from awqc.machine.devices import place
from awqc.machine.memory import forget, trim, unchanged_maps
from awqc.machine.progress import track
from awqc.program import Batch, Program

FORGET = "_forget"
FORGETS = 8
"""How often in a batch mapped weights leave memory: an eighth of them is there at once."""

Values = dict[Node, Any]
"""What lives between two segments, for one batch."""


@torch.no_grad()
def sweep(
    program: Program,
    batches: Sequence[Batch],
    segments: Sequence[Segment],
    calls: Collection[Node],
    device: torch.device,
    start: Callable[[Tensor | None], None],
    finish: Callable[[int], None],
    what: str,
) -> None:
    """Run all batches through each segment in turn; only what ``calls`` read is computed.

    Args:
        program: the graph, which stays as it is.
        batches: what goes in.
        segments: all of the graph, in order.
        calls: calls of modules that look at values.
        device: where it is computed.
        start: called before a batch with the mask of its tokens, where it has one.
        finish: called after a batch, with its index.
        what: the words beside the progress bar.
    """
    needed = _needed(calls)
    inputs = [node for node in program.graph.nodes if node.op == "placeholder"]
    live: list[Values] = [
        {node: batch[spec.name] for node, spec in zip(inputs, program.inputs, strict=True)}
        for batch in batches
    ]
    working = [
        nodes
        for segment in segments
        if (nodes := [node for node in segment.nodes if node in needed and not _given(node)])
    ]
    steps = iter(track(range(len(working) * len(batches)), what))
    for index, nodes in enumerate(working):
        later = {node for rest in working[index + 1 :] for node in rest}
        piece = _Piece(program, nodes, later, device)
        for number, batch in enumerate(batches):
            next(steps)
            mask = batch.get(program.mask_input) if program.mask_input else None
            start(None if mask is None else mask.to(device).bool())
            live[number] = piece.run(live[number])
            trim()
            finish(number)
        piece.let_go()
    for _ in steps:
        pass


def _needed(calls: Collection[Node]) -> set[Node]:
    """``calls`` and what they read, directly or not."""
    found, pending = set(calls), list(calls)
    while pending:
        for node in pending.pop().all_input_nodes:
            if node not in found:
                found.add(node)
                pending.append(node)
    return found


def _given(node: Node) -> bool:
    return node.op == "placeholder" or is_weight(node)


class _Piece:
    """The nodes of one segment as a module: what lives before them in, what lives after out."""

    def __init__(
        self, program: Program, nodes: list[Node], later: set[Node], device: torch.device
    ) -> None:
        inside = set(nodes)
        reads = dict.fromkeys(operand for node in nodes for operand in node.all_input_nodes)
        self._read = [node for node in reads if not is_weight(node) and node not in inside]
        self._made = [node for node in nodes if later & set(node.users)]
        self._later, self._device = later, device
        self._module = self._build(program, nodes)
        _forget_weights_on_the_way(self._module)
        if device.type != "cpu":
            place(self._module, device)

    def _build(self, program: Program, nodes: list[Node]) -> GraphModule:
        graph, copies = Graph(), {}
        for node in self._read:
            copies[node] = graph.placeholder(node.name)
        for node in nodes:
            for operand in node.all_input_nodes:
                if operand not in copies:
                    copies[operand] = graph.node_copy(operand)
            copies[node] = graph.node_copy(node, copies.__getitem__)
        graph.output(tuple(copies[node] for node in self._made))
        return GraphModule(program.graph_module, graph)

    def run(self, values: Values) -> Values:
        """What lives after the segment, of what lives before it."""
        found = self._module(*(self._there(values[node]) for node in self._read))
        made = dict(zip(self._made, found, strict=True))
        return {
            node: value
            for node, value in {**values, **made}.items()
            if not self._later.isdisjoint(node.users)
        }

    def _there(self, value: Any) -> Any:
        """``value``, which may be a tuple, on the device."""
        return pytree.tree_map(lambda leaf: _to(leaf, self._device), value)

    def let_go(self) -> None:
        """Drop the references to weights now: a module is a cycle, freed at some later time."""
        called = {str(n.target) for n in self._module.graph.nodes if n.op == "call_module"}
        for name, part in list(self._module.named_modules()):
            if name not in called:
                part._parameters.clear()
                part._buffers.clear()
        self._module._modules.pop(FORGET, None)


def _to(leaf: Any, device: torch.device) -> Any:
    return leaf.to(device) if isinstance(leaf, Tensor) else leaf


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
