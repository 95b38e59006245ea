"""What a graph has as a constant, though it follows from a size: found by tracing twice."""

from __future__ import annotations

from typing import Any

from torch._ops import OpOverload
from torch.fx import Graph, Node
from torch.fx.node import map_arg

from awqc.graph.nodes import module_path
from awqc.graph.ops import in_order


def hidden_constant(first: Graph, second: Graph) -> str | None:
    """The operation at which two traces of one model, at other sizes, part; None where none does.

    For a pooling kernel of half the image: ``avg_pool2d (kernel_size 8 there, 6 here)``.
    """
    pairs = zip(_calls(first), _calls(second), strict=False)
    for one, other in pairs:
        if one.target != other.target:
            return f"{_operation(one)} in one, {_operation(other)} in the other"
        if (constants := _differing(one, other)) is not None:
            return f"{_operation(one)} with {constants[0]} in one, with {constants[1]} in the other"
    counts = [len(_calls(graph)) for graph in (first, second)]
    longer = (first, second)[counts[1] > counts[0]]
    if counts[0] == counts[1]:
        return None
    return f"{_operation(_calls(longer)[min(counts)])} in one of them only"


def _calls(graph: Graph) -> list[Node]:
    """The calls that compute with tensors: how a size is worked out may differ."""
    return [
        n
        for n in graph.nodes
        if n.op == "call_function"
        and isinstance(n.target, OpOverload)
        and hasattr(n.meta.get("val"), "shape")
    ]


def _differing(one: Node, other: Node) -> tuple[Any, Any] | None:
    """The first argument that is another number; sizes that are computed count as equal."""
    assert isinstance(one.target, OpOverload)
    names = [argument.name for argument in one.target._schema.arguments]
    values = zip(*(in_order(node)[0] for node in (one, other)), strict=False)
    for name, (a, b) in zip(names, values, strict=False):
        if not _computed(a) and not _computed(b) and a != b:
            return f"{name} {a}", f"{name} {b}"
    return None


def _computed(value: Any) -> bool:
    found: list[Node] = []
    map_arg(value, found.append)
    return bool(found)


def _operation(node: Node) -> str:
    path = module_path(node)
    name = str(node.target).removeprefix("aten.").partition(".")[0]
    return f"{name} (in {path})" if path else name
