"""``torch.export`` without what costs more than it gives here.

Torch's cache of results on fake tensors pays less than it costs where sizes are symbols: each entry
is tried out when it is made, and each answer is built from expressions anew. Without it a decoder
of one layer is captured and written in half the time, one of eight in four fifths. The lines of
Python that led to each node are for debugging, and nobody reads them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.fx import config as tracing


def trace_module(
    module: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    dynamic_shapes: Any,
    *,
    strict: bool = False,
) -> ExportedProgram:
    """What ``torch.export.export`` makes of ``module``, called with ``args`` and ``kwargs``.

    Whoever works on its fake values later does so without the cache as well.
    """
    import torch._dynamo.config as config  # imported here: it brings torch's compiler, for seconds

    with config.patch(fake_tensor_cache_enabled=False), _without_lines():
        return torch.export.export(
            module, args, kwargs, dynamic_shapes=dynamic_shapes, strict=strict
        )


@contextmanager
def _without_lines() -> Iterator[None]:
    """Let no node hold the lines of Python that led to it."""
    before = tracing.do_not_emit_stack_traces
    tracing.do_not_emit_stack_traces = True
    try:
        yield
    finally:
        tracing.do_not_emit_stack_traces = before
