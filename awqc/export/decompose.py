"""Decompose only the nodes that need it, each on its own.

`ExportedProgram.run_decompositions` traces the whole model anew, which costs several times
as much as translating it. `LocalProgram` expands node by node instead: the work grows with
the number of nodes to expand, and everything else stays as it is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch._ops import OpOverload
from torch.export import ExportedProgram
from torch.export.graph_signature import TensorArgument
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from awqc.export.attention import attention
from awqc.nodes import fake_mode_of

aten = torch.ops.aten
Decompositions = Mapping[Any, Callable[..., Any]]
OWN: Decompositions = {aten.scaled_dot_product_attention.default: attention}
"""Operations that are always expanded, by functions of ours."""
KEPT = frozenset({aten.reshape.default, aten.matmul.default, aten.flatten.using_ints})
"""Composite operations that dissolve in tracing, but that translators know as they are."""


class LocalProgram(ExportedProgram):
    """An exported program that decomposes its nodes one by one, in place.

    The graph must be functional (no operation writes to its arguments) and every node
    must know its fake value in ``meta["val"]``. A graph with nested graphs is traced as
    a whole, as torch does it.
    """

    def run_decompositions(
        self, decomp_table: Any = None, decompose_custom_triton_ops: bool = False
    ) -> ExportedProgram:
        """This program with every node in ``decomp_table`` expanded."""
        nested = any(isinstance(m, GraphModule) for m in self.graph_module.children())
        if decomp_table is None or nested:
            whole: ExportedProgram = super().run_decompositions(decomp_table)
            return whole
        defaults = torch.export.default_decompositions()
        waiting = deque(self.graph.nodes)
        while waiting:
            node = waiting.popleft()
            if node.target is aten.view.default:
                # A view asks for strides that an expanded node need not have.
                node.target = aten.reshape.default
            if node.target in OWN:
                waiting.extendleft(reversed(_expand(node, _trace_own(node))))
            elif _needs_expanding(node, decomp_table, defaults):
                _expand(node, _trace(node, decomp_table))
        self._settle_outputs()
        self.graph.eliminate_dead_code()
        self.graph_module.recompile()
        return self

    def _settle_outputs(self) -> None:
        """Make each output a value of its own, and let the signature name it."""
        (output,) = (node for node in self.graph.nodes if node.op == "output")
        results: list[Node] = []
        for result, spec in zip(output.args[0], self.graph_signature.output_specs, strict=True):
            if result.op == "placeholder" or result in results:
                value = result.meta["val"]
                with self.graph.inserting_before(output):
                    result = self.graph.call_function(aten.clone.default, (result,))
                result.meta["val"] = value
            assert isinstance(spec.arg, TensorArgument)
            spec.arg.name = result.name
            results.append(result)
        output.args = (tuple(results),)


def _needs_expanding(node: Node, table: Decompositions, defaults: Decompositions) -> bool:
    """Whether tracing the whole program with ``table`` would replace ``node``.

    Composite operations that torch cannot keep (those that are in no default table)
    always dissolve.
    """
    target = node.target
    if not isinstance(target, OpOverload) or node.meta.get("val") is None:
        return False
    if target in KEPT:
        return False
    if target in table:
        return True
    return target not in defaults and _is_composite(target)


def _is_composite(target: OpOverload) -> bool:
    key = "CompositeImplicitAutograd"
    name = str(target.name())  # type: ignore[no-untyped-call]
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key(name, key))


def _expand(node: Node, inner: GraphModule) -> list[Node]:
    """Replace ``node`` by the nodes of ``inner``, and return the new ones."""
    sources = iter(_node_arguments(node))
    replaced: dict[Node, Any] = {}
    made: list[Node] = []
    with node.graph.inserting_before(node):
        for inside in inner.graph.nodes:
            if inside.op == "placeholder":
                replaced[inside] = next(sources)
            elif inside.op == "output":
                _replace(node, torch.fx.node.map_arg(inside.args[0], replaced.__getitem__))
            else:
                replaced[inside] = _copy_into(node, inside, replaced)
                made.append(replaced[inside])
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


def _caller(node: Node, target: Any) -> Callable[..., Any]:
    """A function of the values of ``node``'s arguments that does what ``target`` does."""
    leaves, spec = pytree.tree_flatten((node.args, node.kwargs))
    sources = _node_arguments(node)

    def call(*values: Any) -> Any:
        bound = dict(zip(sources, values, strict=True))
        filled = [bound[leaf] if isinstance(leaf, Node) else leaf for leaf in leaves]
        args, kwargs = pytree.tree_unflatten(filled, spec)
        return target(*args, **kwargs)

    return call


def _trace_own(node: Node) -> GraphModule:
    """Trace our function for ``node``, down to the operations that it calls."""
    values = [source.meta["val"] for source in _node_arguments(node)]
    with node_mode(node), torch.no_grad():
        return make_fx(_caller(node, OWN[node.target]), pre_dispatch=True)(*values)


def _trace(node: Node, table: Decompositions) -> GraphModule:
    """Trace ``node`` alone on its fake arguments, decomposing by ``table``."""
    call = _caller(node, node.target)
    values = [source.meta["val"] for source in _node_arguments(node)]
    with node_mode(node), torch.no_grad():
        traced = make_fx(call, decomposition_table=dict(table))(*values)
        if _is_functional(traced):
            return traced
        # Some decompositions write into tensors of their own making.
        pure = torch.func.functionalize(traced, remove="mutations_and_views")
        return make_fx(pure, decomposition_table=dict(table))(*values)


def _is_functional(module: GraphModule) -> bool:
    module.graph.eliminate_dead_code()
    targets = (node.target for node in module.graph.nodes)
    return not any(isinstance(t, OpOverload) and t._schema.is_mutable for t in targets)


def _node_arguments(node: Node) -> list[Node]:
    leaves = pytree.tree_leaves((node.args, node.kwargs))
    return list(dict.fromkeys(leaf for leaf in leaves if isinstance(leaf, Node)))


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
            user.replace_all_uses_with(value[user.args[1]])  # type: ignore[index, arg-type]
            node.graph.erase_node(user)
    else:
        node.replace_all_uses_with(value)
    node.graph.erase_node(node)
