"""Segments of a program as programs of their own, and the program that they make together.

    program:  x -> a -> b -> c -> y
    parts:    x -> a         a -> b -> c -> y      what lives at a cut goes out, and in again

A part has the nodes, the names and the tensors of its program. Passes work on it as on any program.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from awqc.executor.segments import Segment, is_weight
from awqc.findings import Findings
from awqc.graph.nodes import results_of
from awqc.program import Batch, InputSpec, Interface, Program

CUT = "at cut: "


@dataclass(frozen=True)
class Section:
    """One segment of a program.

    Attributes:
        program: the segment as a program; its inputs and outputs are values of the whole. Those
            that the whole takes and returns have the names that they have there, others that of
            their node behind `CUT`, which no name of an input or output begins with.
        onward: names of the outputs that later segments read.
    """

    program: Program
    onward: tuple[str, ...]


class Sections:
    """The segments of a program, one after another.

    Args:
        program: the whole; until `join` its graph stays as it is, while tensors that no part reads
            any more leave it.
        segments: all of it, in order.
    """

    def __init__(self, program: Program, segments: Sequence[Segment]) -> None:
        self._program = program
        self._segments = [_work(segment) for segment in segments]
        inputs = [node for node in program.graph.nodes if node.op == "placeholder"]
        self._specs = dict(zip(inputs, program.inputs, strict=True))
        self._names = {node: spec.name for node, spec in self._specs.items()}
        self._returned: dict[Node, list[str]] = {}
        for name, node in zip(program.outputs, results_of(program.graph), strict=True):
            self._returned.setdefault(node, []).append(name)
        self._last = {
            node: index
            for index, nodes in enumerate(self._segments)
            for each in nodes
            for node in each.all_input_nodes
        }
        self._done: list[Program] = []

    def __len__(self) -> int:
        return len(self._segments)

    def own_weights(self, index: int) -> set[str]:
        """Names of the tensors that this segment reads, and no other one."""
        others = {n for i, nodes in enumerate(self._segments) if i != index for n in _read(nodes)}
        return _read(self._segments[index]) - others

    def part(self, index: int, example: Batch) -> Section:
        """The segment as a program; ``example`` holds what lives before it, if it is to be run."""
        program, nodes = self._program, self._segments[index]
        inside = set(nodes)
        reads = dict.fromkeys(n for node in nodes for n in node.all_input_nodes)
        taken = [node for node in reads if not is_weight(node) and node not in inside]
        given = [node for node in nodes if self._last.get(node, -1) > index]
        outputs = {self._name(node): node for node in given}
        for node in nodes:
            outputs.update(dict.fromkeys(self._returned.get(node, ()), node))
        specs = tuple(self._specs.get(node) or _spec(node) for node in taken)
        states = tuple(pair for pair in program.states if pair[1] in outputs)
        interface = Interface(
            inputs=specs,
            outputs=tuple(outputs),
            call=program.interface.call,
            example={s.name: example[s.name] for s in specs if s.name in example},
            states=states,
        )
        made = replace(
            program,
            graph_module=self._module(nodes, taken, list(outputs.values())),
            interface=interface,
            findings=self._findings(inside),
            notes=(),
        )
        return Section(made, tuple(self._name(node) for node in given))

    def needed(self, index: int) -> set[str]:
        """Names of the values that segments after this one read, and of the mask."""
        later = {self._name(node) for node, last in self._last.items() if last > index}
        return later | {self._program.mask_input or ""}

    def finish(self, part: Program) -> None:
        """Take the part, after all passes, as it is; what it no longer reads is let go."""
        kept = part.graph_module
        self._done.append(part)
        gone = self.own_weights(len(self._done) - 1) - set(_tensors(kept, part.graph))
        for name in gone:
            owner, _, leaf = name.rpartition(".")
            delattr(self._program.graph_module.get_submodule(owner), leaf)

    def join(self) -> None:
        """Let the program be what its parts are now; each must have been finished."""
        whole = _Whole()
        for node, name in self._names.items():
            whole.made[name] = whole.graph.node_copy(node)
        for part in self._done:
            whole.append(part)
        program = self._program
        for node, names in self._returned.items():
            if node.op == "placeholder":
                whole.made.update(dict.fromkeys(names, whole.made[self._names[node]]))
            elif is_weight(node):
                value = program.kept(str(node.target))
                whole.made.update(dict.fromkeys(names, whole.read(node, value)))
        whole.graph.output(tuple(whole.made[name] for name in program.outputs))
        program.graph_module = GraphModule(whole.tensors, whole.graph)
        program.findings = _merged(program.findings, [part.findings for part in self._done])

    def _name(self, node: Node) -> str:
        return self._names.get(node) or f"{CUT}{node.name}"

    def _module(self, nodes: list[Node], taken: list[Node], results: list[Node]) -> GraphModule:
        graph, copies = Graph(), {}
        for node in taken:
            copies[node] = graph.placeholder(node.name)
            copies[node].meta = dict(node.meta)
        for node in nodes:
            for operand in node.all_input_nodes:
                if operand not in copies:
                    copies[operand] = graph.node_copy(operand)
            copies[node] = graph.node_copy(node, copies.__getitem__)
            assert copies[node].name == node.name, node.name
        graph.output(tuple(copies[node] for node in results))
        return GraphModule(self._program.graph_module, graph)

    def _findings(self, inside: set[Node]) -> Findings:
        """What is known of the segment."""
        found = self._program.findings
        names = {node.name for node in inside}
        sites = tuple(s for s in found.sites if names & {r.node for r in s.readers})
        chosen = {site.name for site in sites}
        return replace(
            found,
            sites=sites,
            scales={name: scale for name, scale in found.scales.items() if name in chosen},
            statistics={n: each for n, each in found.statistics.items() if n in names},
        )


def _work(segment: Segment) -> list[Node]:
    return [
        node
        for node in segment.nodes
        if not is_weight(node) and node.op not in ("placeholder", "output")
    ]


def _read(nodes: Sequence[Node]) -> set[str]:
    """Names of the tensors that ``nodes`` read."""
    return {str(n.target) for node in nodes for n in node.all_input_nodes if is_weight(n)}


def _tensors(module: GraphModule, graph: Graph) -> Mapping[str, Any]:
    """What the graph reads and calls of ``module``, by name."""
    found = {}
    for node in graph.nodes:
        if node.op in ("get_attr", "call_module"):
            value: Any = module
            for step in str(node.target).split("."):
                value = getattr(value, step)
            found[str(node.target)] = value
    return found


def _spec(node: Node) -> InputSpec:
    """An input for the value of ``node``; a size is an input too."""
    value = node.meta.get("val")
    shape = value.shape if isinstance(value, Tensor) else ()
    sizes = tuple(size if isinstance(size, int) else str(size) for size in shape)
    return InputSpec(f"{CUT}{node.name}", getattr(value, "dtype", None), sizes)  # type: ignore[arg-type]  # a size has no dtype


class _Whole:
    """A graph that grows part by part.

    Attributes:
        graph: what is there so far.
        made: the node that makes each value, by the value's name.
        tensors: what the graph reads and calls, by name.
    """

    def __init__(self) -> None:
        self.graph = Graph()
        self.made: dict[str, Node] = {}
        self.tensors: dict[str, Any] = {}
        self._reads: dict[str, Node] = {}

    def append(self, part: Program) -> None:
        """The nodes of ``part`` behind those that are there."""
        copies: dict[Node, Node] = {}
        inputs = [node for node in part.graph.nodes if node.op == "placeholder"]
        for node, spec in zip(inputs, part.inputs, strict=True):
            copies[node] = self.made[spec.name]
        held = _tensors(part.graph_module, part.graph)
        for node in part.graph.nodes:
            if node.op == "get_attr":
                copies[node] = self.read(node, held[str(node.target)])
            elif node.op == "call_function":
                copies[node] = self.graph.node_copy(node, copies.__getitem__)
        for name, node in zip(part.outputs, results_of(part.graph), strict=True):
            self.made[name] = copies[node]

    def read(self, node: Node, value: Any) -> Node:
        """One node for each tensor, under a name that no other tensor has."""
        name, count = str(node.target), 0
        while self.tensors.setdefault(name, value) is not value:
            count += 1
            name = f"{node.target}_{count}"
        if name not in self._reads:
            self._reads[name] = self.graph.node_copy(node)
            self._reads[name].target = name
        return self._reads[name]


def _merged(before: Findings, parts: Sequence[Findings]) -> Findings:
    """What is known of the whole, given what is known of each part."""
    sites = {site.name: site for part in parts for site in part.sites}
    together: dict[str, Any] = {}
    for key in ("scales", "statistics", "quantized", "errors", "skipped", "float_layers"):
        together[key] = dict(getattr(before, key))
        for part in parts:
            together[key].update(getattr(part, key))
    return replace(
        before, sites=tuple(sites.get(site.name, site) for site in before.sites), **together
    )
