"""A `Program` as the `ExportedProgram` that translators to other formats want.

Tensors become leading inputs of the graph, as torch.export has them. A quantized weight
becomes an input without data (its float shape is all that a translator needs to see):
whoever translates puts packed codes in its place afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import SymInt, Tensor
from torch._ops import OpOverload
from torch.export import ExportedProgram, ModuleCallEntry, ModuleCallSignature
from torch.export.graph_signature import (
    ExportGraphSignature,
    InputKind,
    InputSpec,
    OutputKind,
    OutputSpec,
    TensorArgument,
)
from torch.fx import Graph, Node
from torch.utils import _pytree as pytree

from awqc.errors import ExportError
from awqc.export.decompose import LocalProgram
from awqc.graph.nodes import fake_like, module_path, results_of
from awqc.graph.ops import put_in_order
from awqc.machine.narrow import widened
from awqc.program import Program
from awqc.weights.stored import StoredWeight, dequantizing_calls, is_dequantizing


@dataclass(frozen=True)
class Lowered:
    """The result of `lower`.

    Attributes:
        exported: inputs are tensors of the program, then ``weights``, then ``inputs``.
        weights: the quantized weights, in the order of their inputs.
        outputs: names of the tensor outputs.
    """

    exported: ExportedProgram
    weights: tuple[StoredWeight, ...]
    outputs: tuple[str, ...]


def lower(program: Program, kind: type[ExportedProgram] = LocalProgram) -> Lowered:
    """``program`` as an exported program of class ``kind``; no tensor is copied.

    Raises:
        ExportError: the graph calls a module, or an output is a number.
    """
    return _Lowering(program).run(kind)


class _Lowering:
    def __init__(self, program: Program) -> None:
        self.program = program
        self.graph = Graph()
        self.made: dict[Node, Node] = {}
        self.specs: list[InputSpec] = []
        self.state: dict[str, Tensor] = {}
        self.weights: list[StoredWeight] = []

    def run(self, kind: type[ExportedProgram]) -> Lowered:
        nodes = list(self.program.graph.nodes)
        self._add_tensors([n for n in nodes if n.op == "get_attr" and self._is_tensor(n)])
        self._add_weights()
        for node in nodes:
            if node not in self.made and node.op != "output" and not _is_check(node):
                self._copy(node)
        names, outputs = self._add_outputs(results_of(self.program.graph))
        return Lowered(self._exported(kind, outputs), tuple(self.weights), names)

    def _is_tensor(self, node: Node) -> bool:
        value = self.program.graph_module
        for part in str(node.target).split("."):
            value = getattr(value, part)
        return isinstance(value, Tensor)

    def _add_tensors(self, nodes: list[Node]) -> None:
        by_name: dict[str, Node] = {}
        for node in nodes:
            name = str(node.target)
            if all(is_dequantizing(user) for user in node.users):
                self.made[node] = node  # read by `StoredWeight.load` only
                continue
            if name not in by_name:
                value = widened(self.program.weight(name))
                by_name[name] = self._placeholder(
                    f"p_{name.replace('.', '_')}",
                    InputKind.BUFFER,
                    name,
                    node.meta.get("val", fake_like(value, node)),
                )
                self.state[name] = value
            self.made[node] = by_name[name]

    def _add_weights(self) -> None:
        for node, weight in dequantizing_calls(self.program.graph):
            name = f"q_{weight.name.replace('.', '_')}"
            self.made[node] = self._placeholder(name, InputKind.USER_INPUT, None, node.meta["val"])
            self.weights.append(weight)

    def _placeholder(self, name: str, kind: InputKind, target: str | None, value: Any) -> Node:
        node = self.graph.placeholder(name)
        node.meta["val"] = value
        persistent = True if kind is InputKind.BUFFER else None
        self.specs.append(InputSpec(kind, TensorArgument(node.name), target, persistent))
        return node

    def _copy(self, node: Node) -> None:
        if node.op == "call_module":
            raise ExportError(
                f"{self.program.name}: node {node.name!r} calls the module {node.target!r}; "
                "an exported graph holds operations only. Capture the model with torch.export"
            )
        copied = self.graph.node_copy(node, self.made.__getitem__)
        if isinstance(copied.target, OpOverload):
            put_in_order(copied)  # translators take nothing by name that can stand by place
        copied.meta = {
            key: node.meta[key] for key in ("val", "nn_module_stack") if key in node.meta
        }
        self.made[node] = copied
        if node.op == "placeholder":
            spec = InputSpec(InputKind.USER_INPUT, TensorArgument(copied.name), None)
            self.specs.append(spec)

    def _add_outputs(self, returned: Any) -> tuple[tuple[str, ...], list[OutputSpec]]:
        """The outputs that are tensors; each a value of its own."""
        names, results = [], []
        for name, value in zip(self.program.outputs, returned, strict=True):
            if value is None:
                continue
            if not isinstance(value, Node) or not isinstance(value.meta.get("val"), Tensor):
                raise ExportError(
                    f"{self.program.name}: output {name!r} is {_describe(value)}; only tensors "
                    "can be outputs. Return a tensor, or leave it out"
                )
            result = self.made[value]
            if result.op == "placeholder" or result in results:
                result = self.graph.call_function(torch.ops.aten.clone.default, (result,))
                result.meta["val"] = value.meta["val"]
            names.append(name)
            results.append(result)
        self.graph.output(tuple(results)).meta["val"] = tuple(r.meta["val"] for r in results)
        specs = [OutputSpec(OutputKind.USER_OUTPUT, TensorArgument(r.name), None) for r in results]
        return tuple(names), specs

    def _exported(self, kind: type[ExportedProgram], outputs: list[OutputSpec]) -> ExportedProgram:
        inputs = [spec.arg for spec in self.specs if spec.kind is InputKind.USER_INPUT]
        signature = ModuleCallSignature(
            inputs=inputs,
            outputs=[spec.arg for spec in outputs],
            in_spec=pytree.tree_structure(((0,) * len(inputs), {})),
            out_spec=pytree.tree_structure((0,) * len(outputs)),
        )
        return kind(
            root=self.program.graph_module,
            graph=self.graph,
            graph_signature=ExportGraphSignature(self.specs, outputs),
            state_dict=self.state,
            range_constraints={},
            module_call_graph=[ModuleCallEntry("", signature)],
        )


def _is_check(node: Node) -> bool:
    """Whether ``node`` only checks an assumption of capture."""
    if node.users:
        return False
    return node.op == "call_module" or "_assert" in str(node.target)


def _describe(value: Any) -> str:
    if not isinstance(value, Node):
        return repr(value)
    number = isinstance(value.meta.get("val"), int | float | SymInt)
    place = " ".join(part for part in (value.name, module_path(value)) if part)
    return f"{'a number' if number else 'no tensor'} (node {place})"
