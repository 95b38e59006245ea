"""Torch's pass that writes conversions of dtypes into a graph, without running the graph anew.

The pass computes the fake value of every node a second time, to know those of the few that it adds.
A graph that comes here knows its values: only what the pass changes is computed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.fx import Node
from torch.onnx._internal.fx.passes import type_promotion


class Known(type_promotion._TypePromotionInterpreter):
    """Takes the value of a node from the node, which a change of it has renewed."""

    def run_node(self, n: Node) -> Any:
        """The value of ``n``, converted as its operation would convert it."""
        rule = type_promotion.get_type_promotion_rule(n, self.type_promotion_table)
        if rule is None and n.op == "call_function" and "val" in n.meta:
            return n.meta["val"]
        if rule is None:
            return super().run_node(n)
        with self._set_current_node(n):
            self._maybe_promote_node(n, rule)
        return n.meta["val"]


@contextmanager
def values_known() -> Iterator[None]:
    """Let torch's pass take the values that nodes have."""
    own = type_promotion._TypePromotionInterpreter
    type_promotion._TypePromotionInterpreter = Known  # type: ignore[misc]  # put back below
    try:
        yield
    finally:
        type_promotion._TypePromotionInterpreter = own  # type: ignore[misc]  # what it was
