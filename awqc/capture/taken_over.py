"""A module that a capture may take over: without wrappers, in eval mode, its weights floats."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from awqc.errors import UsageError


def unwrap(module: Any) -> nn.Module:
    """The module inside ``DataParallel``, ``DistributedDataParallel`` or ``torch.compile``.

    Raises:
        UsageError: it is no `nn.Module`, or one that cannot be captured.
    """
    wrappers = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    while isinstance(module, nn.Module):
        if isinstance(module, wrappers):
            module = module.module
        elif "_orig_mod" in module._modules:
            module = module._modules["_orig_mod"]
        else:
            break
    if not isinstance(module, nn.Module):
        raise UsageError(f"the model is a {type(module).__name__}; an nn.Module is needed")
    for path, part in module.named_modules():
        if isinstance(part, torch.jit.ScriptModule):
            raise UsageError(
                f"{f'the module {path!r}' if path else 'the model'} is a TorchScript module, which "
                "torch.export cannot capture; give the nn.Module that it was made from"
            )
    return module


def taken_over(module: nn.Module, copy: bool) -> nn.Module:
    """``module`` or a copy, in eval mode and without gradients; tied weights stay tied."""
    tensors = [*module.named_parameters(), *module.named_buffers()]
    lazy = [name for name, value in tensors if is_lazy(value)]
    if lazy:
        raise UsageError(
            f"{type(module).__name__}: the parameter {lazy[0]!r} has no size yet; "
            "run the lazy model once before it is compiled"
        )
    meta = [name for name, value in tensors if value.is_meta]
    if meta:
        raise UsageError(
            f"{type(module).__name__}: the weight {meta[0]!r} is on the meta device and has "
            "no values; load the weights first"
        )
    sparse = [name for name, value in tensors if value.layout is not torch.strided]
    if sparse:
        raise UsageError(
            f"{type(module).__name__}: the weight {sparse[0]!r} is sparse; give it as an ordinary "
            "tensor (to_dense())"
        )
    _check_float(module, tensors)
    owned = deepcopy(module, _computed(module)) if copy else module
    return owned.eval().requires_grad_(False)


QUANTIZED_MODULES = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized")
"""Where torch keeps the modules that hold integer weights."""


def _check_float(module: nn.Module, tensors: Sequence[tuple[str, Tensor]]) -> None:
    """Refuse a model that is quantized already, with the place."""
    found = [
        (f"the module {path!r}", type(part))
        for path, part in module.named_modules()
        if type(part).__module__.startswith(QUANTIZED_MODULES)
    ]
    found += [
        (f"the weight {name!r}", type(value))
        for name, value in tensors
        if value.is_quantized or is_traceable_wrapper_subclass(value)
    ]
    if found:
        where, kind = found[0]
        raise UsageError(
            f"{type(module).__name__}: {where} is a {kind.__module__}.{kind.__name__}: quantized "
            "already, or no plain tensor. awqc quantizes float weights: give the model as it was "
            "before"
        )


def _computed(module: nn.Module) -> dict[int, Tensor]:
    """Copies, by id, of tensors that a module keeps and that gradients flow through.

    Hooks that compute a weight before each forward (pruning, weight norm) leave such
    tensors, which cannot be copied deeply.
    """
    values = (value for part in module.modules() for value in vars(part).values())
    tensors = (value for value in values if isinstance(value, Tensor) and not value.is_leaf)
    return {id(value): value.detach().clone() for value in tensors}
