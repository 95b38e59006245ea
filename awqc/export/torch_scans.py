"""Linear attention as torch's own scan over tokens, which needs nothing of awqc to run."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor
from torch.fx import GraphModule
from torch.overrides import TorchFunctionMode

from awqc.graph.recurrence import OPERATION

TOKENS = 1
"""The axis of tokens, of all that is read and made."""


class ScansInstead(TorchFunctionMode):
    """While a graph is traced, a scan stands in the place of each linear attention."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """What ``func`` makes."""
        instead = scan_tokens if func is OPERATION else func
        return instead(*args, **(kwargs or {}))


def scans_instead(module: GraphModule) -> AbstractContextManager[object]:
    """`ScansInstead` where ``module`` has one: a mode is asked at every call that is traced."""
    graphs = [each.graph for each in module.modules() if isinstance(each, GraphModule)]
    has_one = any(node.target is OPERATION for graph in graphs for node in graph.nodes)
    return ScansInstead() if has_one else nullcontext()


def scan_tokens(
    query: Tensor, key: Tensor, value: Tensor, decay: Tensor, beta: Tensor | None, state: Tensor
) -> tuple[Tensor, Tensor]:
    """What `awqc.graph.recurrence.linear_attention` computes."""
    from torch._higher_order_ops.scan import scan

    def step(state: Tensor, token: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        query, key, value, decay, *rate = token
        state = state * decay.exp().unsqueeze(-1)
        added = value.unsqueeze(-2)
        if rate:
            added = (added - key.unsqueeze(-2) @ state) * rate[0].unsqueeze(-1).unsqueeze(-1)
        state = state + key.unsqueeze(-1) * added
        return state.clone(), (query.unsqueeze(-2) @ state).squeeze(-2)

    rates = () if beta is None else (beta,)
    tokens = tuple(each.movedim(TOKENS, 0) for each in (query, key, value, decay, *rates))
    left, results = scan(step, state, tokens)
    return results.movedim(0, TOKENS).contiguous(), left
