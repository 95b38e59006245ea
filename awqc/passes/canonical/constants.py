"""Compute expressions of constant tensors once."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from awqc.graph.constant_values import leaves_of, value_of
from awqc.passes.base import Change
from awqc.program import Program
from awqc.weights.stored import is_dequantizing

MAX_GROWTH = 2
RANDOM = frozenset({"rand", "randn", "randint", "randperm", "bernoulli", "normal", "uniform"})


def merge_reads(program: Program) -> list[Change]:
    """One ``get_attr`` a tensor, whatever names it goes by."""
    first: dict[Any, Node] = {}
    changes = []
    tensors = program.parameters()
    for node in list(program.graph.nodes):
        if node.op != "get_attr":
            continue
        name = str(node.target)
        value = tensors[name]
        place = (value.untyped_storage().data_ptr(), value.storage_offset())
        same = (*place, value.shape, value.stride(), value.dtype)
        key = name if value.numel() == 0 else same
        if key in first:
            node.replace_all_uses_with(first[key])
            program.graph.erase_node(node)
            changes.append(Change(name, f"merged with {first[key].target}: it is one tensor"))
        else:
            first[key] = node
    return changes


def fold_constants(program: Program) -> list[Change]:
    """Replace each largest expression of tensors of the program by its value.

    ``(1 + w) * norm(x)`` becomes ``w' * norm(x)``; weight norm, low-rank sums and transposes
    of weights become one plain tensor. Left alone: results that are much larger than what
    they are made of, and expressions that are read in part.
    """
    constant: set[Node] = set()
    for node in program.graph.nodes:
        if node.op == "get_attr" or _computable(node, constant):
            constant.add(node)
    changes = []
    for node in list(program.graph.nodes):
        if node not in constant or node.op == "get_attr":
            continue
        if all(user in constant and _keeps(user) for user in node.users):
            continue
        if not isinstance(node.meta["val"], Tensor) or not _keeps(node):
            continue
        changes.append(_fold(program, node))
    return changes


def _computable(node: Node, constant: set[Node]) -> bool:
    """Whether ``node`` is a call whose tensors are all constant, at least one of them."""
    if node.op != "call_function" or is_dequantizing(node):
        return False
    name = getattr(node.target, "__name__", "").split(".")[0]
    sources = node.all_input_nodes
    return bool(sources) and name not in RANDOM and all(n in constant for n in sources)


def _keeps(node: Node) -> bool:
    """Whether the value of ``node`` may be stored: it does not blow memory up."""
    value = node.meta.get("val")
    if isinstance(value, list | tuple):
        return True
    if not isinstance(value, Tensor) or any(isinstance(s, torch.SymInt) for s in value.shape):
        return False
    made_of = sum(n.meta["val"].numel() for n in leaves_of(node))
    return bool(value.numel() <= max(MAX_GROWTH * made_of, 1024))


def _fold(program: Program, node: Node) -> Change:
    """Store the value of ``node`` as a tensor of the program and read that instead."""
    value = value_of(node, program.weight).detach().clone(memory_format=torch.contiguous_format)
    expression = node.target.__name__ if callable(node.target) else str(node.target)
    name = name_after(program, node, leaves_of(node))
    read = program.add_weight(name, value, _first(program))
    node.replace_all_uses_with(read)
    return Change(name, f"computed {expression} of constants once")


def name_after(program: Program, reader: Node, sources: Collection[Node]) -> str:
    """A name for what replaces ``sources``: the largest one's own, if nobody else reads it.

    Nobody else may read a step between them either: a second half of a split, say.
    """
    largest = max(sources, key=lambda n: (n.meta["val"].numel(), str(n.target)))
    name = str(largest.target)
    stack, region = [reader], {reader}
    while stack:
        for source in stack.pop().all_input_nodes:
            if source not in region:
                region.add(source)
                stack.append(source)
    inside = all(user in region for n in region - {reader} for user in n.users)
    return name if inside else program.fresh_name(name)


def _first(program: Program) -> Node:
    node: Node = next(iter(program.graph.nodes))
    return node
