"""Replace one node of a graph by the nodes that compute it in other terms."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.node import map_arg
from torch.utils import _pytree as pytree

from awqc.graph.nodes import fake_mode_of, open_sizes, results_of
from awqc.graph.ops import in_order, index_of


class TracingError(Exception):
    """An operation cannot be written as others for all sizes that its operands may have."""


def is_composite(target: OpOverload) -> bool:
    """Whether torch defines ``target`` by other operations."""
    key = "CompositeImplicitAutograd"
    name = str(target.name())  # type: ignore[no-untyped-call]  # torch declares no types
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key(name, key))


def definition(target: OpOverload) -> Callable[..., Any]:
    """A function that does what ``target`` does, by other operations if it is composite.

    Where torch has the definition in Python it keeps sizes symbolic; the compiled one of
    some operations asks for plain numbers, which fixes them for the whole graph.
    """
    return target.decompose if is_composite(target) else target


def expand(node: Node, inner: GraphModule) -> list[Node]:
    """Replace ``node`` by the nodes of ``inner``, and return the new ones."""
    sources = iter(node.all_input_nodes)
    replaced: dict[Node, Any] = {}
    made: list[Node] = []
    with node.graph.inserting_before(node):
        for inside in inner.graph.nodes:
            if inside.op == "placeholder":
                replaced[inside] = next(sources)
            elif inside.op != "output":
                replaced[inside] = _copy_into(node, inside, replaced)
                made.append(replaced[inside])
    _replace(node, map_arg(results_of(inner.graph), replaced.__getitem__))
    return made


def _copy_into(node: Node, inside: Node, replaced: dict[Node, Any]) -> Node:
    graph = node.graph
    if inside.op == "get_attr":
        # A constant made while tracing, such as a scalar turned into a tensor.
        value = getattr(inside.graph.owning_module, str(inside.target))
        assert value.numel() == 1, inside.target
        copied = graph.call_function(
            torch.ops.aten.full.default, (list(value.shape), value.item()), {"dtype": value.dtype}
        )
        copied.meta["val"] = node_mode(node).from_tensor(value)
    else:
        copied = graph.node_copy(inside, replaced.__getitem__)
    copied.meta["nn_module_stack"] = node.meta.get("nn_module_stack", {})
    return copied


def trace_call(node: Node, target: Callable[..., Any], composite: bool = True) -> GraphModule:
    """The operations that ``target`` calls on the fake arguments of ``node``.

    Unless ``composite``, these are taken apart in turn where torch defines them by others.

    Raises:
        TracingError: torch refuses the arguments, or they would hold only for the example's size
            of an axis that may vary.
    """
    values = [source.meta["val"] for source in node.all_input_nodes]
    mode = node_mode(node)
    unguarded = mode.shape_env.suppress_guards() if mode.shape_env else nullcontext()
    with tracing(node), open_sizes(mode), unguarded, torch.no_grad():
        traced = make_fx(caller(node, target), pre_dispatch=composite)(*values)
    _check_sizes(node, traced)
    return traced


@contextmanager
def tracing(node: Node, refusal: type[Exception] = RuntimeError) -> Iterator[None]:
    """Take what torch raises for the arguments of ``node`` for what it is.

    Raises:
        TracingError: a ``refusal`` came.
    """
    try:
        yield
    except refusal as error:
        reason = str(error).strip().partition("\n")[0]
        raise TracingError(f"{node.name}: {node.target}: {reason}") from error


def _check_sizes(node: Node, traced: GraphModule) -> None:
    """Refuse results with a plain number where ``node`` has a size that varies."""
    results = results_of(traced.graph)
    found = map_arg(results, lambda result: result.meta.get("val"))
    pairs = zip(pytree.tree_leaves(node.meta.get("val")), pytree.tree_leaves(found), strict=False)
    for wanted, made in pairs:
        if isinstance(wanted, Tensor) and isinstance(made, Tensor):
            for size, other in zip(wanted.shape, made.shape, strict=False):
                if isinstance(size, torch.SymInt) and not isinstance(other, torch.SymInt):
                    raise TracingError(f"{node.name}: {node.target} fixes a size at {other}")


def is_functional(module: GraphModule) -> bool:
    """Whether nothing in ``module`` writes to its arguments; what is dead is dropped."""
    module.graph.eliminate_dead_code()
    targets = (node.target for node in module.graph.nodes)
    return not any(isinstance(t, OpOverload) and t._schema.is_mutable for t in targets)


def caller(node: Node, target: Any) -> Callable[..., Any]:
    """A function of the values of the nodes that ``node`` reads, which does what ``target`` does.

    ``target`` gets the arguments in the order of ``node``'s own operation.
    """
    args, kwargs = in_order(node)

    def call(*values: Any) -> Any:
        value = dict(zip(node.all_input_nodes, values, strict=True)).__getitem__
        return target(*map_arg(args, value), **map_arg(kwargs, value))

    return call


def node_mode(node: Node) -> Any:
    """The fake mode that the graph around ``node`` lives in."""
    for other in (node, *node.graph.nodes):
        mode = fake_mode_of(other.meta.get("val"))
        if mode is not None:
            return mode
    raise AssertionError("no node of the graph has a fake value")


def _replace(node: Node, value: Any) -> None:
    """Let the users of ``node`` read ``value`` (a node, or a sequence of nodes) instead."""
    if isinstance(value, list | tuple):
        for user in list(node.users):
            user.replace_all_uses_with(value[index_of(user)])
            node.graph.erase_node(user)
    else:
        node.replace_all_uses_with(value)
    node.graph.erase_node(node)
