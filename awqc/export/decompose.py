"""Decompose only the nodes that need it, each on its own.

`ExportedProgram.run_decompositions` traces the whole model anew, which costs several times
as much as translating it. `LocalProgram` expands node by node instead: the work grows with
the number of nodes to expand, and everything else stays as it is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch
from torch import SymInt, Tensor
from torch._ops import OpOverload
from torch.export import ExportedProgram
from torch.export.graph_signature import TensorArgument
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx

from awqc.export.attention import attention
from awqc.export.free_sizes import free_form
from awqc.export.gates import gate_form
from awqc.export.group_norm import group_norm
from awqc.export.nearest import NEAREST, nearest_form
from awqc.export.plain_convolution import plain_form
from awqc.export.scans import scan_symbol
from awqc.export.shared_heads import share_heads
from awqc.graph import recurrence
from awqc.graph.nodes import open_sizes, results_of, set_results
from awqc.graph.rewriting import (
    caller,
    definition,
    expand,
    is_composite,
    is_functional,
    node_mode,
    trace_call,
    tracing,
)

aten = torch.ops.aten
Decompositions = Mapping[Any, Callable[..., Any]]


def subtract_from(x: Tensor, other: float, alpha: float = 1) -> Tensor:
    """``other - alpha * x``, for `rsub`, whose own definition calls ``sub`` of a number.

    Translators have no form for that if ``x`` is whole and ``other`` is not.
    """
    return torch.add(torch.mul(x.to(torch.result_type(x, other)), -alpha), other)


OWN: Decompositions = {
    aten.scaled_dot_product_attention.default: attention,
    aten.group_norm.default: group_norm,
    aten.rsub.Scalar: subtract_from,
    recurrence.OPERATION: scan_symbol,
}
"""Operations that are always expanded, by functions of ours."""
KEPT = frozenset({aten.reshape.default, aten.matmul.default, aten.flatten.using_ints, *NEAREST})
"""Operations that dissolve in tracing, but that translators know as they are."""


class LocalProgram(ExportedProgram):
    """An exported program that decomposes its nodes one by one, in place.

    The graph must be functional (no operation writes to its arguments) and every node
    must know its fake value in ``meta["val"]``. A graph with nested graphs is traced as
    a whole, as torch does it.
    """

    failure: Exception | None = None

    def run_decompositions(
        self, decomp_table: Any = None, decompose_custom_triton_ops: bool = False
    ) -> ExportedProgram:
        """This program with every node in ``decomp_table`` expanded.

        What it raises is kept in ``failure`` too: translators wrap it in errors of theirs.

        Raises:
            TracingError: a node cannot be expanded alone.
        """
        try:
            return self._expand_nodes(decomp_table)
        except Exception as error:
            self.failure = error
            raise

    def _expand_nodes(self, decomp_table: Any) -> ExportedProgram:
        nested = any(isinstance(m, GraphModule) for m in self.graph_module.children())
        if decomp_table is None or nested:
            whole: ExportedProgram = super().run_decompositions(decomp_table)
            return whole
        defaults = _known_composites()
        waiting = deque(self.graph.nodes)
        sizes: dict[Any, Node] = {}
        while waiting:
            node = waiting.popleft()
            if _replaced_size(node, sizes):
                continue
            if node.target is aten.view.default:
                # A view asks for strides that an expanded node need not have.
                node.target = aten.reshape.default
            if node.target is aten.scaled_dot_product_attention.default:
                share_heads(node)
            if (own := _own_form(node)) is not None:
                waiting.extendleft(reversed(expand(node, trace_call(node, own))))
            elif _needs_expanding(node, decomp_table, defaults):
                expand(node, _trace(node, decomp_table))
        self._settle_outputs()
        self.graph.eliminate_dead_code()
        self.graph_module.recompile()
        return self

    def _settle_outputs(self) -> None:
        """Make each output a value of its own, and let the signature name it."""
        results: list[Node] = []
        specs = self.graph_signature.output_specs
        for result, spec in zip(results_of(self.graph), specs, strict=True):
            if result.op == "placeholder" or result in results:
                value = result.meta["val"]
                with self.graph.inserting_before(self.graph.output_node()):
                    result = self.graph.call_function(aten.clone.default, (result,))
                result.meta["val"] = value
            assert isinstance(spec.arg, TensorArgument)
            spec.arg.name = result.name
            results.append(result)
        set_results(self.graph, tuple(results))


def _own_form(node: Node) -> Callable[..., Any] | None:
    """What to expand ``node`` by, if that is a function of ours."""
    if (own := OWN.get(node.target)) is not None:
        return own
    forms = (form(node) for form in (free_form, gate_form, nearest_form, plain_form))
    return next((form for form in forms if form is not None), None)


def _replaced_size(node: Node, sizes: dict[Any, Node]) -> bool:
    """Let the first node that computes a size serve for all; ``sizes``: those by expression."""
    size = node.meta.get("val")
    if node.op != "call_function" or not isinstance(size, SymInt):
        return False
    known = sizes.setdefault(size.node.expr, node)
    if known is not node:
        node.replace_all_uses_with(known)
        node.graph.erase_node(node)
    return known is not node


@cache
def _known_composites() -> frozenset[Any]:
    """Operations in torch's default table, which it gathers anew each time that it is asked."""
    return frozenset(torch.export.default_decompositions())


def _needs_expanding(node: Node, table: Decompositions, defaults: frozenset[Any]) -> bool:
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
    return target not in defaults and is_composite(target)


def _trace(node: Node, table: Decompositions) -> GraphModule:
    """Trace ``node`` alone on its fake arguments, decomposing by ``table``."""
    assert isinstance(node.target, OpOverload)
    kept = node.target in table
    call = caller(node, node.target if kept else definition(node.target))
    values = [source.meta["val"] for source in node.all_input_nodes]
    # What is called here is torch's own, which refuses in many ways.
    with tracing(node, Exception), open_sizes(node_mode(node)), torch.no_grad():
        traced = make_fx(call, decomposition_table=dict(table))(*values)
        if is_functional(traced):
            return traced
        # Some decompositions write into tensors of their own making.
        pure = torch.func.functionalize(traced, remove="mutations_and_views")
        return make_fx(pure, decomposition_table=dict(table))(*values)
