"""Canonical text of a graph, stable across machines and versions, and the diff of two.

One line a node, in graph order. Values are numbered by operation, symbols of dynamic axes are
``s0, s1, …`` in order of appearance, tensors of the program go by their names, and a last
column gives the largest magnitude, since many passes change values and not structure::

    %linear_3: f32[s0, 64] = linear(%relu_2, fc.weight)        |fc.weight| max 0.81

Graphs that a call takes, such as the two of a ``cond``, stand before it, under their names.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from awqc.graph.nodes import results_of

DTYPES = {
    torch.float64: "f64",
    torch.float32: "f32",
    torch.float16: "f16",
    torch.bfloat16: "bf16",
    torch.int64: "i64",
    torch.int32: "i32",
    torch.int8: "i8",
    torch.uint8: "u8",
    torch.bool: "bool",
}


def dump(graph_module: GraphModule, values: bool = True) -> str:
    """The text of ``graph_module``; ``values=False`` leaves the value column out."""
    return _Dumper(graph_module, values).text()


def diff(before: str, after: str, context: int = 3) -> str:
    """A unified diff of two dumps; empty where they are equal.

    Node numbers are left out of the comparison's context lines as they stand: a node that
    moved is shown as removed and added.
    """
    lines = difflib.unified_diff(
        before.splitlines(), after.splitlines(), "before", "after", lineterm="", n=context
    )
    return "".join(f"{line}\n" for line in lines)


class _Dumper:
    def __init__(self, graph_module: GraphModule, values: bool) -> None:
        self._module = graph_module
        self._values = values
        self._symbols: dict[str, str] = {}
        self._names: dict[Node, str] = {}
        self._counts: dict[str, int] = {}

    def text(self) -> str:
        lines = []
        for node in self._module.graph.nodes:
            if node.op == "get_attr":
                self._names[node] = str(node.target)
                lines += self._inside(node)
            elif node.op == "output":
                lines.append(f"return {self._argument(results_of(self._module.graph))}")
            else:
                lines.append(self._line(node))
        return "".join(f"{line}\n" for line in lines)

    def _inside(self, node: Node) -> list[str]:
        """The graph that ``node`` reads, if it is none of the tensors."""
        held = self._held(str(node.target))
        if not isinstance(held, GraphModule):
            return []
        inner = _Dumper(held, self._values).text().splitlines()
        return [f"{node.target}:", *(f"    {line}" for line in inner)]

    def _line(self, node: Node) -> str:
        call = "" if node.op == "placeholder" else f" = {self._call(node)}"
        name = self._name(node)
        line = f"%{name}: {self._type(node.meta.get('val'))}{call}"
        column = self._value_column(node) if self._values else ""
        return f"{line}  {column}" if column else line

    def _name(self, node: Node) -> str:
        """A number for each operation, in graph order, whatever torch called the node."""
        base = node.name if node.op == "placeholder" else self._operation(node)
        count = self._counts.get(base, 0)
        self._counts[base] = count + 1
        self._names[node] = f"{base}_{count}" if node.op != "placeholder" else base
        return self._names[node]

    def _operation(self, node: Node) -> str:
        if node.op == "call_module":
            return "observer" if "_observers" in str(node.target) else str(node.target)
        if isinstance(node.target, torch._ops.OpOverload):
            return str(node.target._schema.name).split("::")[1]
        return str(getattr(node.target, "__name__", node.target))

    def _call(self, node: Node) -> str:
        arguments = [self._argument(argument) for argument in node.args]
        arguments += [f"{key}={self._argument(value)}" for key, value in node.kwargs.items()]
        return f"{self._operation(node)}({', '.join(arguments)})"

    def _argument(self, argument: Any) -> str:
        if isinstance(argument, Node):
            name = self._names.get(argument, argument.name)
            return name if argument.op == "get_attr" else f"%{name}"
        if isinstance(argument, list | tuple):
            return f"[{', '.join(self._argument(item) for item in argument)}]"
        if isinstance(argument, torch.dtype):
            return DTYPES.get(argument, str(argument))
        if isinstance(argument, float):
            return f"{argument:.6g}"
        return str(argument)

    def _type(self, value: Any) -> str:
        if isinstance(value, Tensor):
            sizes = ", ".join(self._size(size) for size in value.shape)
            return f"{DTYPES.get(value.dtype, str(value.dtype))}[{sizes}]"
        if isinstance(value, list | tuple):
            return f"({', '.join(self._type(item) for item in value)})"
        if isinstance(value, torch.SymInt):
            return f"int {self._size(value)}"
        return "none" if value is None else type(value).__name__

    def _size(self, size: Any) -> str:
        if not isinstance(size, torch.SymInt):
            return str(size)

        def rename(match: re.Match[str]) -> str:
            return self._symbols.setdefault(match[0], f"s{len(self._symbols)}")

        return re.sub(r"\b[su]\d+\b", rename, str(size))

    def _value_column(self, node: Node) -> str:
        parts = []
        for source in node.all_input_nodes:
            if source.op == "get_attr":
                value = self._held(str(source.target))
                floats = isinstance(value, Tensor) and value.dtype.is_floating_point
                if floats and value.numel():
                    parts.append(f"|{source.target}| max {float(value.abs().max()):.4g}")
        return ", ".join(parts)

    def _held(self, name: str) -> Any:
        """The tensor, or the graph, called ``name``."""
        path, _, leaf = name.rpartition(".")
        value = getattr(self._module.get_submodule(path), leaf)
        return value.detach() if isinstance(value, Tensor) else value


def compare_weights(before: GraphModule, after: GraphModule) -> list[str]:
    """One line for each tensor that is only in one of two graphs, or differs in value."""
    old, new = (_tensors(module) for module in (before, after))
    lines = [f"- {name}  {_summary(old[name])}" for name in old if name not in new]
    lines += [f"+ {name}  {_summary(new[name])}" for name in new if name not in old]
    for name in old:
        if name in new and not _equal(old[name], new[name]):
            lines.append(f"~ {name}  {_change(old[name], new[name])}")
    return lines


def _tensors(module: GraphModule) -> dict[str, Tensor]:
    reads: Iterable[Node] = (n for n in module.graph.nodes if n.op == "get_attr")
    dumper = _Dumper(module, values=False)
    held = {str(node.target): dumper._held(str(node.target)) for node in reads}
    return {name: value for name, value in held.items() if isinstance(value, Tensor)}


def _equal(first: Tensor, second: Tensor) -> bool:
    alike = first.shape == second.shape and first.dtype == second.dtype
    return alike and torch.equal(first, second)


def _summary(value: Tensor) -> str:
    sizes = ", ".join(str(size) for size in value.shape)
    return f"{DTYPES.get(value.dtype, str(value.dtype))}[{sizes}]"


def _change(old: Tensor, new: Tensor) -> str:
    if old.shape != new.shape or old.dtype != new.dtype:
        return f"{_summary(old)} -> {_summary(new)}"
    difference = float((new.double() - old.double()).abs().max())
    peaks = [float(value.double().abs().max()) for value in (old, new)]
    change = f"max {peaks[0]:.4g} -> {peaks[1]:.4g}, largest change {difference:.4g}"
    return f"{_summary(old)}  {change}"
