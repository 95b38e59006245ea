"""Scans over tokens in a captured graph that are linear attention: as the one operation again.

An archive has torch's ``scan`` in its place, which is a graph inside of the graph.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from awqc.graph.ops import index_of, leading_arguments
from awqc.graph.recurrence import OPERATION, linear_attention

ROWS, NEAR = 2, 1e-4
"""Rows on which a step is compared, and how near it must come, relative to the largest value."""
OPERANDS, RANKS = (4, 5), [3, 2, 2, 2, 2, 1]
"""How many values a step reads of each token, and axes of a state and of these in a row: the last
is a rate, which may be missing."""


def is_linear_attention(owner: GraphModule, node: Node) -> bool:
    """Whether ``node`` of ``owner`` is a scan whose step gives what the operation gives."""
    if node.target is not torch.ops.higher_order.scan:
        return False
    inner, states, tokens = leading_arguments(node, 3)
    found = [*(_sizes(each, 1) for each in states), *(_sizes(each, 2) for each in tokens)]
    sizes = [each for each in found if each is not None]
    if len(states) != 1 or len(tokens) not in OPERANDS or len(sizes) != len(found):
        return False
    if [len(each) for each in sizes] != RANKS[: len(sizes)]:
        return False
    step = owner.get_submodule(str(inner.target))
    drawn = torch.Generator().manual_seed(0)
    state, *read = (torch.randn(ROWS, *each, generator=drawn) for each in sizes)
    read[3] = -read[3].abs()
    beta = read[4].unsqueeze(1) if len(read) > OPERANDS[0] else None
    try:
        with torch.no_grad():
            left, result = step(state, *read)
            query, key, value, decay = (each.unsqueeze(1) for each in read[:4])
            results, wanted = linear_attention(query, key, value, decay, beta, state)
    except (RuntimeError, ValueError, TypeError):  # it is some other step
        return False
    return _near(result, results[:, 0]) and _near(left, wanted)


def write_linear_attention(module: GraphModule) -> None:
    """Let the scans of ``module`` that are linear attention be the operation, in place."""
    graph = module.graph
    scans = [each for each in graph.nodes if is_linear_attention(module, each)]
    for node in scans:
        _, (state,), tokens = leading_arguments(node, 3)
        with graph.inserting_before(node):
            turned = [_call(node, torch.ops.aten.movedim.int, each, 0, 1) for each in tokens]
            query, key, value, decay = turned[:4]
            beta = turned[4] if len(turned) > OPERANDS[0] else None
            made = _call(node, OPERATION, query, key, value, decay, beta, state)
            results, left = (_call(node, operator.getitem, made, place) for place in (0, 1))
            ordered = _call(node, torch.ops.aten.movedim.int, results, 1, 0)
        for reader in list(node.users):
            reader.replace_all_uses_with(left if index_of(reader) == 0 else ordered)
            graph.erase_node(reader)
        graph.erase_node(node)
    if scans:
        graph.eliminate_dead_code()


def _sizes(operand: Any, first: int) -> tuple[int, ...] | None:
    """Sizes of ``operand`` from the axis ``first`` on; None if one is free, or it is no tensor."""
    value = operand.meta.get("val") if isinstance(operand, Node) else None
    if not isinstance(value, Tensor):
        return None
    sizes = tuple(value.shape[first:])
    return sizes if all(isinstance(size, int) for size in sizes) else None


def _near(found: Tensor, wanted: Tensor) -> bool:
    if found.shape != wanted.shape:
        return False
    return bool((found - wanted).abs().max() <= NEAR * wanted.abs().max())


def _call(like: Node, target: Any, *args: Any) -> Node:
    """A call that stands where ``like`` does, whose value is known."""
    made = like.graph.call_function(target, args)
    given = [each.meta["val"] if isinstance(each, Node) else each for each in args]
    made.meta = {**like.meta, "val": target(*given)}
    return made
