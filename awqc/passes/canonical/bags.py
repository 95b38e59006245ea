"""Write bags of embeddings as lookups and sums."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from awqc.graph.families import RESHAPES
from awqc.graph.ops import argument, arguments, first_argument, index_of, leading_arguments
from awqc.passes.base import Change
from awqc.program import Program

aten = torch.ops.aten
BAGS = (aten.embedding_bag.default, aten.embedding_bag.padding_idx)
SUM, MEAN, MAX = range(3)


def write_out_bags(program: Program) -> list[Change]:
    """``embedding_bag(W, ids, offsets)  ->  zeros.index_add(bag of each id, embedding(W, ids))``.

    Bags of one length, ids given as a matrix, are summed along its rows. The table becomes one
    that is looked up, which can be scaled and quantized as others are, and runs everywhere.
    Left alone: where anything but the bags is used.
    """
    changes = []
    for node in list(program.graph.nodes):
        if node.op != "call_function" or node.target not in BAGS:
            continue
        used = [user for user in node.users if user.users]
        if any(index_of(user) != 0 for user in used):
            continue
        bags = _Bags(program, node)
        made = bags.equal() or bags.ragged()
        for user in used:
            user.replace_all_uses_with(made)
        program.graph.eliminate_dead_code()
        changes.append(Change(node.name, "written as lookups and sums"))
    return changes


class _Bags:
    """One call, and what it is made of."""

    def __init__(self, program: Program, node: Node) -> None:
        self._program, self._node = program, node
        self._table, self._ids, self._offsets = leading_arguments(node, 3)
        self._mode = argument(node, "mode")
        self._weights = argument(node, "per_sample_weights")
        self._ends = argument(node, "include_last_offset")
        rows = int(self._table.meta["val"].shape[0])
        padding = arguments(node).get("padding_idx")
        self._padding = None if padding is None else int(padding) % rows

    def equal(self) -> Node | None:
        """Bags that are the rows of a matrix of ids; None if these are not."""
        ids, offsets = self._ids, self._offsets
        flattened = ids.target in RESHAPES and leading_arguments(ids, 2)[1] == [-1]
        if not flattened or offsets.target is not aten.arange.start_step or self._ends:
            return None
        matrix = first_argument(ids)
        shape = matrix.meta["val"].shape
        first, step = argument(offsets, "start"), argument(offsets, "step")
        if len(shape) != 2 or first != 0 or step != shape[1]:
            return None
        weights = self._weights
        if isinstance(weights, Node):
            weights = self._call(aten.reshape.default, weights, [-1, shape[1]])
        values, kept = self._looked_up(matrix, weights)
        if self._mode == MAX:
            return self._emptied(self._call(aten.amax.default, values, [1]))
        total = self._call(aten.sum.dim_IntList, values, [1])
        if self._mode == SUM:
            return total
        if kept is None:
            return self._call(aten.div.Tensor, total, shape[1])
        count = self._call(aten.sum.dim_IntList, kept, [1])
        return self._call(aten.div.Tensor, total, self._call(aten.clamp_min.default, count, 1))

    def ragged(self) -> Node:
        """Bags of any length, which start at ``offsets``."""
        ids, offsets, table = self._ids, self._offsets, self._table
        if self._ends:
            offsets = self._call(aten.slice.Tensor, offsets, 0, 0, -1)
        values, kept = self._looked_up(ids, self._weights)
        bag = self._bag_of_each(ids, offsets)
        first = self._call(aten.zeros_like.default, offsets)
        rows = self._call(aten.embedding.default, table, first)
        empty = self._call(aten.zeros_like.default, rows)
        if self._mode == MAX:
            lowest = self._call(aten.full_like.default, empty, float("-inf"))
            index = self._call(aten.unsqueeze.default, bag, 1)
            index = self._call(aten.expand_as.default, index, values)
            made = self._call(aten.scatter_reduce.two, lowest, 0, index, values, "amax")
            return self._emptied(made)
        total = self._call(aten.index_add.default, empty, 0, bag, values)
        if self._mode == SUM:
            return total
        if kept is None:
            column = self._call(aten.narrow.default, values, 1, 0, 1)
            kept = self._call(aten.ones_like.default, column)
        none = self._call(aten.narrow.default, empty, 1, 0, 1)
        kept = self._call(aten.to.dtype, kept, none.meta["val"].dtype)
        count = self._call(aten.index_add.default, none, 0, bag, kept)
        return self._call(aten.div.Tensor, total, self._call(aten.clamp_min.default, count, 1))

    def _looked_up(self, ids: Any, weights: Any) -> tuple[Node, Node | None]:
        """The rows that ``ids`` name, and which of them count, if not all."""
        values = self._call(aten.embedding.default, self._table, ids)
        if weights is not None:
            weights = self._call(aten.unsqueeze.default, weights, -1)
            values = self._call(aten.mul.Tensor, values, weights)
        if self._padding is None:
            return values, None
        kept = self._call(aten.ne.Scalar, ids, self._padding)
        kept = self._call(aten.unsqueeze.default, kept, -1)
        out = float("-inf") if self._mode == MAX else 0.0
        return self._call(aten.where.ScalarOther, kept, values, out), kept

    def _bag_of_each(self, ids: Any, offsets: Any) -> Node:
        """The number of the bag of each id: how many bags start there or before, less one."""
        ones = self._call(aten.ones_like.default, ids, dtype=torch.int64)
        last = self._call(aten.cumsum.default, ones, 0)
        starts = self._call(aten.unsqueeze.default, offsets, 0)
        started = self._call(aten.gt.Tensor, self._call(aten.unsqueeze.default, last, 1), starts)
        count = self._call(aten.sum.dim_IntList, started, [1])
        return self._call(aten.sub.Scalar, count, 1)

    def _emptied(self, made: Node) -> Node:
        """Zeros for bags without an id."""
        real = self._call(aten.ne.Scalar, made, float("-inf"))
        return self._call(aten.where.ScalarOther, real, made, 0.0)

    def _call(self, target: Any, *args: Any, **kwargs: Any) -> Node:
        return self._program.call_op(self._node, target, *args, **kwargs)
